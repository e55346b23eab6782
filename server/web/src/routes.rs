//! Everything that answers: one table. A test walks it with every role.

use crate::assets;
use crate::pages::{
    account, activity, calendar, channel, device_wizard, devices, gate, health, home, left_behind, location_new,
    machine_tags, machines, metrics, notifications, restore, restore_wizard, retention, run, search, settings, storage,
    storage_limits, task_wizard, tasks, workers,
};
use crate::state::App;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use domain::permission::Permission::{
    self, EditTasks, ManageDevices, ManageLocations, ManageServer, Public, Restore, RunTasks, Token, View,
};

/// One line of the table.
pub struct Route {
    /// GET or POST; the test over the table needs it.
    #[allow(dead_code)]
    pub method: Method,
    /// Path, in axum's notation.
    pub path: &'static str,
    /// What the account needs.
    pub permission: Permission,
    /// What answers.
    pub handler: MethodRouter<App>,
}

fn get<T: 'static, H: Handler<T, App>>(path: &'static str, permission: Permission, handler: H) -> Route {
    Route { method: Method::GET, path, permission, handler: on(MethodFilter::GET, handler) }
}

fn post<T: 'static, H: Handler<T, App>>(path: &'static str, permission: Permission, handler: H) -> Route {
    Route { method: Method::POST, path, permission, handler: on(MethodFilter::POST, handler) }
}

/// The table.
pub fn table() -> Vec<Route> {
    let mut routes = vec![
        get("/health", Public, health),
        // By a token of its own.
        get("/metrics", Token, metrics::metrics),
        get("/static/{version}/{*name}", Public, assets::serve),
        get("/setup", Public, gate::setup),
        post("/setup", Public, gate::set_up),
        get("/login", Public, gate::login),
        post("/login", Public, gate::sign_in),
        post("/logout", View, gate::log_out),
        post("/theme", View, gate::theme),
        get("/", View, home::home),
        get("/live/home", View, home::live),
        get("/search", View, search::search),
        get("/settings", View, settings::settings),
        post("/settings/tracking", ManageServer, settings::set_sample),
        get("/settings/audit", ManageServer, settings::audit),
        post("/settings/metrics/token", ManageServer, metrics::make),
        post("/settings/metrics/remove", ManageServer, metrics::remove),
        get("/settings/account", View, account::account),
        post("/settings/account/password", View, account::change_password),
        get("/settings/notifications", ManageServer, notifications::list),
        post("/settings/notifications/limits", ManageServer, notifications::limits),
        get("/settings/notifications/new", ManageServer, channel::new),
        post("/settings/notifications/new", ManageServer, channel::create),
        get("/settings/notifications/{channel}", ManageServer, channel::edit),
        post("/settings/notifications/{channel}", ManageServer, channel::change),
        post("/settings/notifications/{channel}/test", ManageServer, notifications::test),
        post("/settings/notifications/{channel}/remove", ManageServer, notifications::remove),
        get("/workers", View, workers::list),
        post("/workers", ManageServer, workers::add),
        post("/workers/{worker}/drain", ManageServer, workers::drain),
        post("/workers/{worker}/resume", ManageServer, workers::resume),
        post("/workers/{worker}/replace", ManageServer, workers::replace),
        post("/workers/{worker}/remove", ManageServer, workers::remove),
        post("/worker/enrol", Token, workers::enrol),
    ];
    routes.extend(of_devices());
    routes.extend(of_tasks());
    routes.extend(of_restores());
    routes
}

fn of_devices() -> Vec<Route> {
    vec![
        get("/devices", View, devices::list),
        post("/devices/simulated", ManageDevices, devices::add_simulated),
        get("/devices/new", ManageDevices, device_wizard::address),
        post("/devices/new", ManageDevices, device_wizard::probe),
        get("/devices/new/{draft}/certificate", ManageDevices, device_wizard::certificate),
        post("/devices/new/{draft}/certificate", ManageDevices, device_wizard::check),
        post("/devices/new/{draft}/save", ManageDevices, device_wizard::save),
        get("/devices/{device}", View, devices::one),
        post("/devices/{device}/sync", RunTasks, devices::sync),
        post("/devices/{device}/test", ManageDevices, devices::test),
        post("/devices/{device}/enable", ManageDevices, devices::enable),
        post("/devices/{device}/disable", ManageDevices, devices::disable),
        post("/devices/{device}/remove", ManageDevices, devices::remove),
        get("/devices/{device}/edit", ManageDevices, devices::edit),
        post("/devices/{device}/edit", ManageDevices, devices::save),
        get("/devices/{device}/certificate", ManageDevices, devices::certificate),
        post("/devices/{device}/certificate", ManageDevices, devices::accept_certificate),
        get("/left-behind", View, left_behind::list),
        post("/left-behind/{device}", RunTasks, left_behind::look),
        get("/left-behind/foreign/{foreign}", RunTasks, left_behind::confirm),
        post("/left-behind/foreign/{foreign}", RunTasks, left_behind::remove),
        get("/machines", View, machines::list),
        post("/machines", RunTasks, machines::bulk),
        get("/machines/{vm}", View, machines::one),
        post("/machines/{vm}/run", RunTasks, machines::run),
        post("/machines/{vm}/alarms", RunTasks, machines::see_alarms),
        post("/machines/{vm}/goal", EditTasks, machines::set_goal),
        post("/machines/{vm}/tags", EditTasks, machine_tags::set),
        get("/storage", View, storage::list),
        get("/storage/new", ManageLocations, location_new::new),
        post("/storage/new", ManageLocations, location_new::create),
        get("/storage/{repository}", View, storage::one),
        get("/storage/{repository}/limits", ManageLocations, storage_limits::show),
        post("/storage/{repository}/limits", ManageLocations, storage_limits::save),
        post("/storage/{repository}/verify", RunTasks, storage::verify),
        post("/storage/{repository}/collect", RunTasks, storage::collect),
        post("/storage/{repository}/floor", ManageLocations, retention::floor),
    ]
}

fn of_tasks() -> Vec<Route> {
    vec![
        get("/tasks", View, tasks::list),
        get("/tasks/calendar", View, calendar::calendar),
        get("/tasks/new", EditTasks, task_wizard::new),
        post("/tasks/new", EditTasks, task_wizard::begin),
        get("/tasks/draft/{draft}/{step}", EditTasks, task_wizard::step),
        post("/tasks/draft/{draft}/{step}", EditTasks, task_wizard::answer),
        get("/tasks/{task}", View, tasks::one),
        post("/tasks/{task}/run", RunTasks, tasks::run),
        post("/tasks/{task}/pause", RunTasks, tasks::pause),
        post("/tasks/{task}/resume", RunTasks, tasks::resume),
        post("/tasks/{task}/edit", EditTasks, task_wizard::edit),
        post("/tasks/{task}/remove", EditTasks, tasks::remove),
        post("/tasks/{task}/machines/{vm}/remove", EditTasks, tasks::remove_machine),
        get("/activity", View, activity::list),
        get("/activity/{run}", View, run::one),
        get("/live/run/{run}", View, run::live),
        post("/activity/{run}/cancel", RunTasks, run::cancel),
        post("/activity/{run}/retry", RunTasks, run::retry),
    ]
}

fn of_restores() -> Vec<Route> {
    vec![
        get("/restore", View, restore::list),
        get("/restore/machines/{key}", View, restore::points),
        get("/restore/points/{point}", View, restore::point),
        post("/restore/points/{point}", Restore, restore_wizard::begin),
        post("/restore/points/{point}/pin", EditTasks, retention::pin),
        post("/restore/points/{point}/unpin", EditTasks, retention::unpin),
        get("/restore/draft/{draft}/{step}", Restore, restore_wizard::step),
        post("/restore/draft/{draft}/{step}", Restore, restore_wizard::answer),
    ]
}
