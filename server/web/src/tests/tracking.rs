//! What a newcomer sees when change tracking has missed a change, and how much it is checked.

use super::world::{World, machine};
use db::{NewJob, NewTrackingAlarm};
use domain::job::JobKind;
use domain::permission::Role;
use domain::sampling::Sampling;

#[tokio::test]
async fn an_alarm_stands_on_the_first_page_and_the_machines_until_an_operator_has_seen_it() {
    let world = World::new().await;
    world.device("esx-1", vec![machine("web-01", &[])]).await;
    let vm_id = world.vm("web-01").await;
    let repository = world.repository("Vault").await;
    world.point(repository, vm_id, "web-01", "2026-11-21T22:00:00Z").await;
    let job = NewJob::new(JobKind::Backup, "web-01", format!("vm:{vm_id}"));
    let job_id = world.db().enqueue(&job).await.unwrap().unwrap();
    let disk_label = "Hard disk 1".to_owned();
    let alarm = NewTrackingAlarm { vm_id, job_id, disk_key: 2000, disk_label, offset_bytes: 1_310_720 };
    world.db().raise_tracking_alarm(&alarm).await.unwrap();

    let (of_machine, button) = (format!("/machines/{vm_id}"), "I have seen it");
    let mut viewer = world.client(Role::Viewer).await;
    assert!(viewer.get("/").await.ok().contains("web-01: change tracking missed a change"));
    let page = viewer.get(&of_machine).await.ok();
    assert!(page.contains("at byte 1310720 of Hard disk 1") && !page.contains(button), "{page}");
    let mut operator = world.client(Role::Operator).await;
    assert!(operator.get(&of_machine).await.ok().contains(button));
    let answer = operator.post(&format!("{of_machine}/alarms"), &[]).await;
    assert_eq!(answer.went_to(), of_machine);
    assert!(!operator.get(&of_machine).await.ok().contains(button));
    assert!(!viewer.get("/").await.ok().contains("change tracking missed"));
}

#[tokio::test]
async fn how_much_is_checked_is_a_setting_of_administrators() {
    let world = World::new().await;
    let mut administrator = world.administrator().await;
    assert!(administrator.get("/settings").await.ok().contains(r#"name="per_mille""#));
    for wrong in ["", "-1", "1001", "some"] {
        let page = administrator.post("/settings/tracking", &[("per_mille", wrong)]).await.again();
        assert!(page.contains("A number from 0 to 1000."), "{wrong}");
    }
    assert_eq!(administrator.post("/settings/tracking", &[("per_mille", "25")]).await.went_to(), "/settings");
    let kept: Option<Sampling> = world.db().setting(Sampling::SETTING).await.unwrap();
    assert_eq!(kept, Some(Sampling { per_mille: 25 }));
    assert!(administrator.get("/settings").await.ok().contains(r#"value="25""#));
    let mut operator = world.client(Role::Operator).await;
    assert!(!operator.get("/settings").await.ok().contains("per_mille"));
}
