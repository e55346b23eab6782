//! What goes wrong on the side of the repository, and at a restore.

use super::{Case, MIB, job_fails, web};
use crate::rig::{FaultyFolder, files_below};
use domain::job::{JobKind, JobState};
use engine::RestoreOrder;
use simulators::hyperv::{Action, On, Rule};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Files of the host whose path names the machine.
fn files_of(case: &Case, machine: &str) -> Vec<PathBuf> {
    let all = files_below(&case.rig.folder.path().join("hosts/HV-1"));
    all.into_iter().filter(|path| path.to_string_lossy().contains(machine)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_full_fails_the_job_and_no_more() {
    let space = FaultyFolder::endless();
    let case = Case::with(web(), Arc::new(space.clone())).await;
    space.leave(MIB);
    let error = case.failed_cleanly("repository.no_space", 0).await;
    assert!(error.why.contains("no space left"), "{error}");
    assert_eq!(case.reference_points(), 0);
    space.leave(u64::MAX);
    case.run(JobState::Succeeded).await;
    case.clean(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_not_committed_leaves_no_reference_point() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    let before = case.reference_points();
    let points = case.rig.repository_path().join("points");
    let id = case
        .host
        .faults()
        .add(Rule::always(On::method("ConvertToReferencePoint"), Action::JobSlow(Duration::from_secs(1))));
    let run = case.rig.start_run(case.task).await;
    case.rig.wait("the conversion", async || (case.host.faults().hits(id) > 0).then_some(())).await;
    std::fs::rename(&points, points.with_extension("aside")).expect("taken away");
    std::fs::write(&points, "no folder").expect("in the way");
    let job = case.rig.finished(run).await.remove(0);
    std::fs::remove_file(&points).expect("out of the way");
    std::fs::rename(points.with_extension("aside"), &points).expect("back");
    assert_eq!(job.state, JobState::Failed, "{}", case.rig.log(&job).await);
    case.host.faults().clear();
    case.rig.db.enqueue_housekeeping(JobKind::Reconcile, case.device).await.expect("queued");
    case.clean(1).await;
    assert_eq!(case.reference_points(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_stops_the_restore_and_removes_the_half_made_machine() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    case.rig.flip_a_byte();
    let job = case.rig.restore(&case.order("copy-of-web").await, JobState::Failed).await;
    let error = job.error.expect("an error");
    assert_eq!(error.code, "repository.damaged", "{error}");
    case.rig.settled(case.device).await;
    case.host.assert_clean(&["web-01"]);
    assert_eq!(files_of(&case, "copy-of-web"), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_cannot_work_makes_nothing() {
    let case = Case::new().await;
    case.run(JobState::Succeeded).await;
    let good = case.order("copy-of-web").await;
    let cases = [
        (RestoreOrder { name: "web-01".to_owned(), ..good.clone() }, "restore.name_taken"),
        (RestoreOrder { datastore: "D:\\nowhere".to_owned(), ..good.clone() }, "restore.datastore_missing"),
        (RestoreOrder { network: Some("nowhere".to_owned()), ..good.clone() }, "restore.network_missing"),
    ];
    for (order, code) in cases {
        let job = case.rig.restore(&order, JobState::Failed).await;
        assert_eq!(job.error.expect("an error").code, code);
    }
    for method in ["DefineSystem", "AddResourceSettings"] {
        case.host.faults().add(Rule::always(On::method(method), job_fails()));
        let job = case.rig.restore(&good, JobState::Failed).await;
        let error = job.error.expect("an error");
        assert!(error.why.contains("no room for it"), "{method}: {error}");
        case.host.faults().clear();
        case.clean(1).await;
        assert_eq!(files_of(&case, "copy-of-web"), Vec::<PathBuf>::new(), "{method}");
    }
    case.rig.restore(&good, JobState::Succeeded).await;
    case.host.assert_clean(&["copy-of-web", "web-01"]);
    assert_eq!(case.host.digests("copy-of-web"), case.host.digests("web-01"));
}
