//! What an empty server finds in a repository it takes over.

use bytes::Bytes;
use domain::point::PointKind;
use repository::{MemoryBackend, ObjectBackend, ReadPlan, Repository};
use std::sync::Arc;

use crate::support::*;

async fn point(repository: &Repository, number: u128, machine: &str, name: &str, taken_at: i64, disks: &[Bytes]) {
    let writer = repository.begin_point(point_id(number)).await.unwrap();
    for (key, content) in (2000..).zip(disks) {
        backup(&writer, key, content, ReadPlan::Everything).await.unwrap();
    }
    let mut metadata = metadata(taken_at, PointKind::Full, None);
    metadata.machine_id = machine.to_owned();
    metadata.machine.name = name.to_owned();
    writer.commit(metadata).await.unwrap();
}

#[tokio::test]
async fn machines_with_their_points_oldest_first_and_what_cannot_be_read() {
    let memory = MemoryBackend::new();
    let repository = new_repository(Arc::new(memory.clone())).await;
    let (small, large): (Bytes, Bytes) = (text(1, 10_000).into(), noise(2, 90_000).into());
    point(&repository, 1, "d/2", "mail", 500, std::slice::from_ref(&small)).await;
    point(&repository, 2, "d/1", "web-02", 300, &[small.clone(), large.clone()]).await;
    point(&repository, 3, "d/1", "web-01", 100, std::slice::from_ref(&large)).await;
    point(&repository, 4, "d/1", "web-01", 200, std::slice::from_ref(&large)).await;
    let name = format!("points/{}", point_id(4));
    let mut bytes = memory.get(&name, None).await.unwrap().to_vec();
    bytes[100] ^= 1;
    memory.tamper(&name, bytes.into());

    let found = reopen(Arc::new(memory)).await.catalogue().await.unwrap();
    assert_eq!((found.repository, found.created_at), (repository.id(), repository.created_at()));
    let machines: Vec<_> = found
        .machines
        .iter()
        .map(|machine| {
            let points: Vec<_> = machine.points.iter().map(|point| point.id).collect();
            (machine.machine_id.as_str(), machine.name.as_str(), points)
        })
        .collect();
    // A machine is called what it was called last.
    assert_eq!(machines, [("d/2", "mail", vec![point_id(1)]), ("d/1", "web-02", vec![point_id(3), point_id(2)])]);
    let newest = found.machines[1].points.last().unwrap();
    let disks: Vec<_> = newest.disks.iter().map(|disk| (disk.key, disk.label.as_str(), disk.size_bytes)).collect();
    assert_eq!(disks, [(2000, "Hard disk 1", 10_000), (2001, "Hard disk 2", 90_000)]);
    assert_eq!((newest.size_bytes, newest.kind, newest.task.as_deref()), (100_000, PointKind::Full, Some("nightly")));
    assert_eq!(found.damaged.iter().map(|damaged| damaged.object.as_str()).collect::<Vec<_>>(), [name]);
}
