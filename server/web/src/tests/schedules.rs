//! When a task runs: the wizard's step, the pages that say it, the calendar.

use super::world::{Client, World, machine};
use axum::http::StatusCode;
use db::TaskId;
use domain::permission::Role;
use domain::schedule::{MissedRuns, Schedule, in_words};

async fn world() -> World {
    let world = World::new().await;
    world.device("esx-a", vec![machine("web-01", &[])]).await;
    world.repository("nas").await;
    world
}

/// Walks the wizard to its schedule; gives the address of the step.
async fn to_schedule(world: &World, client: &mut Client, name: &str) -> String {
    let vm = world.vm("web-01").await.to_string();
    let repository = world.db().repositories().await.unwrap()[0].repository_id.to_string();
    let machines = client.post("/tasks/new", &[("name", name)]).await.went_to();
    let location = client.post(&machines, &[("vm", &vm)]).await.went_to();
    let method = client.post(&location, &[("repository", &repository)]).await.went_to();
    client.post(&method, &[("method", "incremental"), ("full_every", "0"), ("mode", "hot")]).await.went_to()
}

/// Answers the step and those after it; gives the task.
async fn finish(client: &mut Client, schedule: &str, fields: &[(&str, &str)]) -> TaskId {
    let retention = client.post(schedule, fields).await.went_to();
    let summary = client.post(&retention, &[("keep", "3")]).await.went_to();
    task_of(&client.post(&summary, &[("do", "create")]).await.went_to())
}

fn task_of(address: &str) -> TaskId {
    address.trim_start_matches("/tasks/").split('?').next().unwrap().parse().unwrap()
}

async fn schedule_of(world: &World, task: TaskId) -> Schedule {
    world.db().task(task).await.unwrap().schedule
}

const ZONE: (&str, &str) = ("time_zone", "Europe/Vienna");

#[tokio::test]
async fn every_repeat_is_saved_shown_and_found_again() {
    let world = world().await;
    let mut client = world.administrator().await;
    let cases = [
        (
            "weekly",
            vec![("repeat", "weekly"), ("at", "22:00"), ("weekday", "mon"), ("weekday", "wed"), ZONE],
            "Weekly on Mon, Wed at 22:00, Europe/Vienna",
        ),
        (
            "dates",
            vec![("repeat", "monthly"), ("at", "1:00, 13:00"), ("month_by", "date"), ("month_day", "31"), ZONE],
            "Monthly on the 31st at 01:00 and 13:00, Europe/Vienna",
        ),
        (
            "nth",
            vec![
                ("repeat", "monthly"),
                ("at", "1:00"),
                ("month_by", "weekday"),
                ("nth", "second"),
                ("nth_weekday", "tue"),
                ZONE,
            ],
            "Monthly on the 2nd Tuesday at 01:00, Europe/Vienna",
        ),
        ("cron", vec![("repeat", "cron"), ("cron", "0 22 * * 1-5"), ZONE], "By cron “0 22 * * 1-5”, Europe/Vienna"),
        ("hand", vec![("repeat", "manual")], "By hand only"),
    ];
    for (name, fields, words) in cases {
        let step = to_schedule(&world, &mut client, name).await;
        let page = client.get(&step).await.ok();
        assert!(page.contains(r#"value="daily" checked"#) && page.contains(r#"value="22:00""#), "{name}");
        let task = finish(&mut client, &step, &fields).await;
        assert_eq!(in_words(&schedule_of(&world, task).await, None), words);
        assert!(client.get("/tasks").await.ok().contains(words), "{words}");
        assert!(client.get(&format!("/tasks/{task}")).await.ok().contains(words), "{words}");
        // Changed without touching the schedule, it stays what it is.
        let before = schedule_of(&world, task).await;
        let summary = client.post(&format!("/tasks/{task}/edit"), &[]).await.went_to();
        client.post(&summary, &[("do", "create")]).await.went_to();
        assert_eq!(schedule_of(&world, task).await, before);
    }
}

#[tokio::test]
async fn hours_and_missed_runs_are_saved_and_wrong_ones_said() {
    let world = world().await;
    let mut client = world.administrator().await;
    let step = to_schedule(&world, &mut client, "nightly").await;
    let mut fields = vec![
        ("repeat", "daily"),
        ("at", "12:00"),
        ZONE,
        ("missed", "skip"),
        ("grace_minutes", "30"),
        ("hours", "within"),
    ];
    let page = client.post(&step, &fields).await.again();
    assert!(page.contains("Enter the hours") && page.contains(r#"id="more" open"#), "{page}");
    fields.extend([("from_0", "22:00"), ("until_0", "06:00"), ("days_0", "mon"), ("days_0", "tue"), ("stop", "on")]);
    let preview: Vec<_> = fields.iter().copied().chain([("do", "preview")]).collect();
    let page = client.post(&step, &preview).await.ok();
    assert!(page.contains("waits for its hours.") && page.contains(r#"name="from_1""#), "{page}");
    let task = finish(&mut client, &step, &fields).await;
    let Schedule::Timed(timed) = schedule_of(&world, task).await else { panic!("by the clock") };
    assert_eq!(timed.missed, MissedRuns::Skip { grace_minutes: 30 });
    let page = client.get(&format!("/tasks/{task}")).await.ok();
    for words in ["Only Mon, Tue 22:00 to 06:00; what still runs then is stopped", "Left out when later than 30 min"] {
        assert!(page.contains(words), "{words}");
    }
}

#[tokio::test]
async fn answers_that_make_no_schedule_are_refused_at_their_field() {
    let world = world().await;
    let mut client = world.administrator().await;
    let step = to_schedule(&world, &mut client, "wrong").await;
    for (fields, words) in [
        (vec![("repeat", "daily"), ("at", "25:00"), ZONE], "A time of day, such as 22:00"),
        (vec![("repeat", "weekly"), ("at", "22:00"), ZONE], "Pick one day at least."),
        (vec![("repeat", "cron"), ("cron", "* * *"), ZONE], "Five fields: minute"),
        (vec![("repeat", "cron"), ("cron", "0 0 30 2 *"), ZONE], "no day ever fits it"),
        (vec![("repeat", "after"), ZONE], "Choose the task that goes before."),
        (vec![("repeat", "daily"), ("at", "22:00"), ("time_zone", "Mars/Olympus")], "This time zone is not known."),
    ] {
        let page = client.post(&step, &fields).await.again();
        assert!(page.contains(words), "{words}: {page}");
    }
    // While one is still typing, the preview is no failure.
    let page = client.post(&step, &[("repeat", "cron"), ("cron", ""), ZONE, ("do", "preview")]).await.ok();
    assert!(page.contains("They are shown when the answers above are complete."), "{page}");
}

#[tokio::test]
async fn tasks_run_after_each_other_but_not_in_a_ring() {
    let world = world().await;
    let mut client = world.administrator().await;
    let step = to_schedule(&world, &mut client, "Files").await;
    let files = finish(&mut client, &step, &[("repeat", "daily"), ("at", "22:00"), ZONE]).await;
    let step = to_schedule(&world, &mut client, "Mail").await;
    let followed = files.to_string();
    let page = client.get(&step).await.ok();
    assert!(page.contains(">Files</option>") && !page.contains(">Mail</option>"));
    let mail = finish(&mut client, &step, &[("repeat", "after"), ("after_task", &followed), ZONE]).await;
    assert!(client.get("/tasks").await.ok().contains("After “Files”"));
    assert!(client.get(&format!("/tasks/{mail}")).await.ok().contains("Runs after “Files”."));
    assert!(client.get("/tasks/calendar").await.ok().contains("After “Files”; has not run before"));

    let summary = client.post(&format!("/tasks/{files}/edit"), &[]).await.went_to();
    let mail_id = mail.to_string();
    client
        .post(&summary.replace("summary", "schedule"), &[("repeat", "after"), ("after_task", &mail_id), ZONE])
        .await
        .went_to();
    let page = client.post(&summary, &[("do", "create")]).await.again();
    assert!(page.contains("they would start each other without end"), "{page}");
    let page = client.post(&format!("/tasks/{files}/remove"), &[]).await.again();
    assert!(page.contains("the task “Mail”, which runs after it"), "{page}");
}

#[tokio::test]
async fn a_run_that_did_not_happen_says_so_everywhere() {
    let world = world().await;
    let mut client = world.administrator().await;
    let step = to_schedule(&world, &mut client, "Files").await;
    let skip = [("repeat", "daily"), ("at", "22:00"), ZONE, ("missed", "skip"), ("grace_minutes", "0")];
    let task = finish(&mut client, &step, &skip).await;
    let three_days_ago = world.db().now().await.unwrap() - jiff::SignedDuration::from_hours(72);
    world.db().set_next_due(task, Some(three_days_ago)).await.unwrap();
    let looked = world.db().start_due_tasks().await.unwrap();
    let run = looked[0].skipped.unwrap();
    for path in ["/tasks".to_owned(), format!("/tasks/{task}"), "/activity".to_owned()] {
        assert!(client.get(&path).await.ok().contains("Did not run"), "{path}");
    }
    let page = client.get(&format!("/activity/{run}")).await.ok();
    assert!(
        page.contains("It did not run") && page.contains("schedule.missed") && !page.contains("Try failed again"),
        "{page}"
    );
}

#[tokio::test]
async fn the_calendar_shows_weeks_and_marks_what_overlaps() {
    let world = world().await;
    let mut client = world.client(Role::Viewer).await;
    assert!(client.get("/tasks/calendar").await.ok().contains("No task runs by itself."));
    let mut administrator = world.administrator().await;
    for name in ["Files", "Mail"] {
        let step = to_schedule(&world, &mut administrator, name).await;
        finish(&mut administrator, &step, &[("repeat", "daily"), ("at", "22:00, 23:00"), ZONE]).await;
    }
    let week = client.get("/tasks/calendar?from=yesterday").await.ok();
    assert!(week.matches("while “Mail” runs").count() >= 12, "{week}");
    assert!(week.contains("Four weeks") && !week.contains("Earlier"));
    let later = week.split(r#"href="/tasks/calendar?view=week&#38;from="#).last().unwrap().split('"').next().unwrap();
    let next = client.get(&format!("/tasks/calendar?view=week&from={later}")).await.ok();
    assert!(next.contains("Earlier") && !next.contains("today</span>"));
    let month = client.get("/tasks/calendar?view=month").await.ok();
    assert_eq!(month.matches("<td").count(), 28);
    assert!(client.get("/tasks").await.ok().contains(r#"href="/tasks/calendar""#));
    assert_eq!(client.get("/tasks/calendar?from=9999-12-31").await.status, StatusCode::OK);
}
