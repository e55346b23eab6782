//! Machines that join and leave tasks by rule.

use super::fixture::{self, machine};
use crate::testing::{TestDatabase, database};
use crate::{DeviceId, InventoryInput, MachineInput, Start, TaskId, TaskInput};
use domain::choice::{Choice, ExcludedDisk, Rule};

struct Scene {
    db: TestDatabase,
    device: DeviceId,
}

impl Scene {
    async fn new() -> Self {
        let db = database().await;
        let device = fixture::device(&db, "one").await;
        Self { db, device }
    }

    /// The device holds these: name and folder. The name recognises them.
    async fn holds(&self, machines: &[(&str, &str)]) -> Vec<(String, String, bool)> {
        let of = |&(name, folder): &(&str, &str)| MachineInput { folder: folder.to_owned(), ..machine(name, name) };
        let input = InventoryInput { machines: machines.iter().map(of).collect(), ..InventoryInput::default() };
        let changes = self.db.apply_inventory(self.device, &input).await.unwrap();
        changes.joined.into_iter().map(|it| (it.machine, it.task, it.is_in)).collect()
    }

    async fn task(&self, name: &str, choice: Choice) -> TaskId {
        let repository = fixture::repository(&self.db).await;
        self.db.create_task(&TaskInput { choice, ..fixture::task_input(name, repository, &[]) }).await.unwrap()
    }

    async fn members(&self, task: TaskId) -> Vec<String> {
        let mut names = Vec::new();
        for vm in self.db.task_machines(task).await.unwrap() {
            names.push(self.db.machine(vm).await.unwrap().name);
        }
        names
    }
}

fn by_name(pattern: &str) -> Choice {
    Choice { rules: vec![Rule::Name { pattern: pattern.to_owned() }], exceptions: Vec::new() }
}

#[tokio::test]
async fn new_machines_that_fit_join_and_those_that_do_not_any_more_leave() {
    let scene = Scene::new().await;
    assert!(scene.holds(&[("web-1", "A"), ("db-1", "A")]).await.is_empty());
    let web = scene.task("web", by_name("web-*")).await;
    let folder = Choice {
        rules: vec![Rule::Folder { path: "A".to_owned() }, Rule::Device { device_id: i64::MAX }],
        exceptions: vec![Rule::Name { pattern: "*-test".to_owned() }],
    };
    let folder = scene.task("folder", folder).await;
    assert_eq!(
        (scene.members(web).await, scene.members(folder).await),
        (vec!["web-1".into()], vec!["db-1".into(), "web-1".into()])
    );

    let joined = scene.holds(&[("web-1", "A"), ("db-1", "B"), ("web-2", "A/new"), ("web-test", "A")]).await;
    let told = |machine: &str, task: &str, is_in| (machine.to_owned(), task.to_owned(), is_in);
    let expected = [
        told("web-2", "web", true),
        told("web-test", "web", true),
        told("db-1", "folder", false),
        told("web-2", "folder", true),
    ];
    assert_eq!(joined, expected);
    assert_eq!(scene.members(folder).await, ["web-1", "web-2"]);
    assert!(scene.holds(&[("web-1", "A"), ("db-1", "B"), ("web-2", "A/new"), ("web-test", "A")]).await.is_empty());
}

#[tokio::test]
async fn one_that_vanished_stays_until_somebody_takes_it_out() {
    let scene = Scene::new().await;
    scene.holds(&[("web-1", ""), ("web-2", "")]).await;
    let task = scene.task("web", by_name("web-*")).await;
    assert!(scene.holds(&[("web-2", "")]).await.is_empty());
    assert_eq!(scene.members(task).await, ["web-1", "web-2"]);
    let Start::Started { jobs, .. } = scene.db.start_run(task, "anna", None).await.unwrap() else { panic!("a run") };
    assert_eq!(jobs, 2, "the run tells of it");
    let gone = scene.db.task_machines(task).await.unwrap()[0];
    assert!(scene.db.remove_task_machine(task, gone).await.unwrap());
    assert!(!scene.db.remove_task_machine(task, gone).await.unwrap());
    scene.holds(&[("web-2", "")]).await;
    assert_eq!(scene.members(task).await, ["web-2"]);
}

#[tokio::test]
async fn what_was_picked_stays_whatever_rules_say() {
    let scene = Scene::new().await;
    scene.holds(&[("web-1", ""), ("web-2", ""), ("db-1", "")]).await;
    let task = scene.task("web", by_name("web-*")).await;
    let ids = |names: &'static [&str]| {
        let db = &scene.db;
        async move {
            let all = db.machines_of_device(scene.device).await.unwrap();
            all.iter().filter(|it| names.contains(&it.name.as_str())).map(|it| it.vm_id).collect::<Vec<_>>()
        }
    };
    let repository = scene.db.task(task).await.unwrap().repository_id;
    let disk = ExcludedDisk { vm_id: 7, disk_key: 2000 };
    let picked = ids(&["web-1", "db-1"]).await;
    let mut input = TaskInput {
        choice: by_name("web-*"),
        excluded_disks: vec![disk],
        ..fixture::task_input("web", repository, &picked)
    };
    scene.db.update_task(task, &input).await.unwrap();
    assert_eq!(scene.members(task).await, ["db-1", "web-1", "web-2"]);
    assert_eq!(scene.db.picked_machines(task).await.unwrap(), ids(&["db-1", "web-1"]).await);
    assert_eq!(scene.db.machines_by_rule(&input.choice).await.unwrap(), ids(&["web-1", "web-2"]).await);
    let kept = scene.db.task(task).await.unwrap();
    assert_eq!((kept.choice, kept.excluded_disks), (input.choice.clone(), vec![disk]));

    input.choice = Choice::default();
    scene.db.update_task(task, &input).await.unwrap();
    assert_eq!(scene.members(task).await, ["db-1", "web-1"], "without rules only what was picked");
    input.choice = by_name("web-*");
    input.machines.clear();
    scene.db.update_task(task, &input).await.unwrap();
    assert_eq!(scene.members(task).await, ["web-1", "web-2"]);
}
