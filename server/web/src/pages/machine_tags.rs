//! Tags of machines: of one on its page, of many from the list.

use super::devices::record;
use super::go;
use crate::auth::Session;
use crate::failure::{Failure, Result};
use crate::form::Fields;
use crate::format;
use crate::state::App;
use axum::extract::{Path, State};
use db::{TagChange, VmId, views};
use domain::permission::Permission;
use domain::tag::{TAGS_MAX, TagError, Tags};

/// `POST /machines/{vm}/tags`: these and no others.
pub async fn set(State(app): State<App>, session: Session, Path(vm): Path<VmId>, fields: Fields) -> Result {
    let machine = views::machine_page(app.db(), vm).await?.ok_or(Failure::NotFound)?;
    let tags = read(fields.get("tags"))?;
    let words = if tags.is_empty() { "none".to_owned() } else { tags.words().join(", ") };
    if !apply(&app, &[vm], &TagChange::Set(tags)).await?.is_empty() {
        record(&app, &session, "machine.tags_changed", &machine.name, &words).await?;
    }
    go(format!("/machines/{vm}?said=tags-saved"))
}

/// The same for the picked ones of the list: `tag` gives them these as well, `untag` takes these from them.
pub(super) async fn change(app: &App, session: &Session, picked: &[VmId], action: &str, fields: &Fields) -> Result {
    if !session.role.allows(Permission::EditTasks) {
        return Err(Failure::Forbidden);
    }
    let tags = read(fields.get("tags"))?;
    if tags.is_empty() {
        return Err(Failure::Refused("Write a tag first.".to_owned()));
    }
    let words = tags.words();
    let gives = action == "tag";
    let change = if gives { TagChange::Add(tags) } else { TagChange::Remove(tags) };
    let changed = apply(app, picked, &change).await?;
    let verb = if gives { "given" } else { "taken away" };
    if !changed.is_empty() {
        let machines = format::count(changed.len(), "machine", "machines");
        record(app, session, "machine.tags_changed", &machines, &format!("{verb}: {}", words.join(", "))).await?;
    }
    match words.as_slice() {
        // Letters of a tag may be any of the world's.
        [tag] if gives => {
            let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("tag", tag).finish();
            go(format!("/machines?{query}&said=tags-saved"))
        }
        _ => go("/machines?said=tags-saved"),
    }
}

fn read(list: &str) -> Result<Tags> {
    Tags::parse(list).map_err(|error| Failure::Refused(error.to_string()))
}

async fn apply(app: &App, machines: &[VmId], change: &TagChange) -> Result<Vec<String>> {
    match app.db().change_tags(machines, change).await {
        Err(db::Error::Conflict(db::Conflict::TooManyTags(vm))) => {
            let name = app.db().machine(vm).await?.name;
            let why = TagError::TooMany;
            Err(Failure::Refused(format!("{name} would have more than {TAGS_MAX} tags. {why} No tag was changed.")))
        }
        other => Ok(other?),
    }
}
