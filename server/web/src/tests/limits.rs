//! Limits of devices and locations.

use super::world::World;
use db::DeviceLimits;
use domain::permission::Role;

#[tokio::test]
async fn a_location_takes_so_much_at_once_and_so_fast() {
    let world = World::new().await;
    let repository = world.repository("nas").await;
    let path = format!("/storage/{repository}/limits");
    let mut client = world.administrator().await;
    assert!(client.get(&format!("/storage/{repository}")).await.ok().contains(&path));
    for (jobs, speed, complaint) in [("0", "", "A number from 1 to 64"), ("4", "fast", "Write a line such as")] {
        let page = client.post(&path, &[("jobs", jobs), ("speed", speed)]).await.again();
        assert!(page.contains(complaint), "{page}");
    }
    let fields = [("jobs", "4"), ("speed", "100\n20 mon-fri 08:00-18:00")];
    assert_eq!(client.post(&path, &fields).await.went_to(), format!("/storage/{repository}"));
    assert_eq!(world.db().repository_max_jobs(repository).await.unwrap(), 4);
    let speed = world.db().repository_bandwidth(repository).await.unwrap();
    assert_eq!(speed.at("2026-11-30T12:00:00Z".parse().unwrap()), Some(20 << 20));
    assert!(client.get(&path).await.ok().contains("20 mon,tue,wed,thu,fri 08:00-18:00"));
    let mut operator = world.client(Role::Operator).await;
    assert!(!operator.get(&format!("/storage/{repository}")).await.ok().contains(&path));
}

#[tokio::test]
async fn a_device_keeps_its_own_limits() {
    let world = World::new().await;
    let device = world.device("esx-a", Vec::new()).await;
    let mut client = world.administrator().await;
    let path = format!("/devices/{device}/edit");
    let fields = |reserve, speed| {
        let rest = [("name", "esx-a"), ("host", "esx-a.example"), ("port", "443"), ("account", "root")];
        let limits = [("max_jobs", "3"), ("max_jobs_datastore", "2"), ("reserve", reserve), ("speed", speed)];
        rest.into_iter().chain(limits).collect::<Vec<_>>()
    };
    assert!(client.post(&path, &fields("95", "")).await.again().contains("A number from 0 to 90."));
    assert!(client.post(&path, &fields("10", "x")).await.again().contains("Write a line such as"));
    client.post(&path, &fields("10", "50 22:00-06:00")).await.went_to();
    let limits = DeviceLimits { per_datastore: 2, reserve_percent: 10 };
    assert_eq!(world.db().device_limits(device).await.unwrap(), limits);
    assert_eq!(world.db().device_bandwidth(device).await.unwrap().text(), "50 22:00-06:00");
    assert!(client.get(&path).await.ok().contains("50 22:00-06:00"));
}
