//! The table of routes, walked with every role.

use super::world::World;
use crate::routes;
use axum::http::{Method, StatusCode};
use domain::permission::{Permission, Role};

/// An address of the route: ids that parse and belong to nothing.
fn address(path: &str) -> String {
    let nothing = "00000000-0000-4000-8000-000000000000";
    path.replace("{version}", "0")
        .replace("{*name}", "app.css")
        .replace("{draft}", nothing)
        .replace("{point}", nothing)
        .replace("{repository}", nothing)
        .replace("{step}", "name")
        .replace("{key}", "none")
        .replace("{device}", "4711")
        .replace("{vm}", "4711")
        .replace("{task}", "4711")
        .replace("{run}", "4711")
        .replace("{channel}", "4711")
        .replace("{worker}", "4711")
        .replace("{foreign}", "4711")
}

#[tokio::test]
async fn each_role_reaches_what_the_table_says_and_nothing_else() {
    let world = World::new().await;
    // An account exists, or every page would lead to setup.
    world.administrator().await;
    for route in routes::table() {
        let path = address(route.path);
        // These answer for as long as one listens.
        if route.path == "/live/home" {
            continue;
        }
        for role in [None, Some(Role::Viewer), Some(Role::Operator), Some(Role::Administrator)] {
            let mut client = match role {
                Some(role) => world.client(role).await,
                None => world.anonymous(),
            };
            let answer = match route.method {
                Method::GET => client.get(&path).await,
                _ => client.post(&path, &[]).await,
            };
            let what = format!("{} {path} as {role:?}: {}", route.method, answer.status);
            match role {
                _ if route.permission == Permission::Token => {
                    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
                }
                None if route.permission == Permission::Public => {
                    assert_ne!(answer.status, StatusCode::FORBIDDEN, "{what}");
                }
                None => {
                    let to_login = answer.location().starts_with("/login");
                    assert!(to_login || answer.status == StatusCode::UNAUTHORIZED, "{what}");
                }
                Some(role) if role.allows(route.permission) => {
                    assert_ne!(answer.status, StatusCode::FORBIDDEN, "{what}");
                    let expected = route.permission == Permission::Public || path == "/logout";
                    assert!(!answer.location().starts_with("/login") || expected, "{what}");
                    assert!(!answer.status.is_server_error(), "{what} {}", answer.body);
                }
                Some(_) => assert_eq!(answer.status, StatusCode::FORBIDDEN, "{what}"),
            }
        }
    }
}

#[tokio::test]
async fn every_change_needs_its_token_and_the_right_origin() {
    let world = World::new().await;
    for route in routes::table().into_iter().filter(|route| route.method != Method::GET) {
        if route.permission == Permission::Token {
            continue;
        }
        let path = address(route.path);
        let mut client = world.administrator().await;
        let token = client.form_token();
        for (origin, token) in [
            (Some("https://sf.example"), "wrong"),
            (Some("https://sf.example"), ""),
            (Some("https://evil.example"), token.as_str()),
            (Some("null"), token.as_str()),
            (Some("http://sf.example"), token.as_str()),
            (None, token.as_str()),
        ] {
            let answer = client.post_from(&path, &[], origin, token).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {origin:?} {}", answer.body);
        }
    }
}

#[test]
fn no_route_stands_twice_in_the_table() {
    let mut seen = std::collections::HashSet::new();
    for route in routes::table() {
        assert!(seen.insert((route.method.clone(), route.path)), "{} {}", route.method, route.path);
    }
}
