//! The methods of the API, by name.

mod files;
mod machines;
mod snapshots;

use std::time::Duration;

use super::collector::{self, FilterSpec, reference_in};
use super::fault::SoapFault;
use super::host::now;
use super::inventory;
use super::lease;
use super::session::{Door, set_cookie};
use super::soap::{Call, Reply};
use super::updates;
use super::value::{MoRef, Object, Value};

/// Pseudo fault that becomes HTTP 503.
pub(crate) const TOO_MANY_SESSIONS: &str = "OutOfHttpSessions";

/// Whether a method changes the host, which a free licence forbids.
pub(crate) fn changes_something(name: &str) -> bool {
    (name.ends_with("_Task") && name != "SearchDatastore_Task")
        || matches!(name, "ImportVApp" | "UnregisterVM" | "MakeDirectory" | "ShutdownGuest")
}

impl Call<'_> {
    /// The object the call is for.
    pub fn this(&self) -> MoRef {
        reference_in(self.node, "_this")
    }

    pub fn text(&self, name: &str) -> &str {
        self.node.text_of(name).unwrap_or_default()
    }

    fn session_key(&self) -> String {
        self.session.as_ref().map(|session| session.key.clone()).unwrap_or_default()
    }

    pub fn user(&self) -> String {
        self.session.as_ref().map(|session| session.user.clone()).unwrap_or_default()
    }
}

/// Carries out a call that passed all checks.
pub(crate) fn call(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let this = call.this();
    if !matches!(this.kind.as_str(), "ServiceInstance") && !inventory::exists(call.host, &this) {
        return Err(SoapFault::not_found(&this));
    }
    match call.node.name.as_str() {
        "RetrieveServiceContent" => Ok(Reply::of(inventory::service_content(call.host))),
        "CurrentTime" => Ok(Reply::of(now())),
        "Login" => login(call),
        "Logout" => {
            call.host.views.end_session(&call.session_key());
            call.host.sessions.close(&call.session_key());
            Ok(Reply::none())
        }
        "SessionIsActive" => Err(SoapFault::new("NotSupported", "The operation is not supported on the object.")),
        "CreateContainerView" => create_view(call),
        "DestroyView" | "DestroyPropertyFilter" => call.host.views.destroy(&this).map(|()| Reply::none()),
        "RetrieveProperties" | "RetrievePropertiesEx" => retrieve(call),
        "ContinueRetrievePropertiesEx" => {
            let rest = call.host.views.rest(&call.session_key(), call.text("token"))?;
            let page = call.host.views.page(&call.session_key(), rest, call.host.config.limits.objects_per_page);
            Ok(Reply::of(page))
        }
        "CancelRetrievePropertiesEx" => {
            call.host.views.rest(&call.session_key(), call.text("token")).map(|_| Reply::none())
        }
        "CreateFilter" => {
            let spec = call.node.child("spec").ok_or_else(|| SoapFault::invalid_argument("spec"))?;
            let filter = call.host.views.create_filter(&call.session_key(), this, FilterSpec::read(spec)?)?;
            Ok(Reply::of(filter))
        }
        "WaitForUpdatesEx" => wait_for_updates(call, &this),
        "CancelWaitForUpdates" | "DestroyPropertyCollector" => Ok(Reply::none()),
        "CreatePropertyCollector" => {
            Ok(Reply::of(MoRef::new("PropertyCollector", format!("session-collector-{}", uuid::Uuid::new_v4()))))
        }
        "HttpNfcLeaseProgress" => call.host.leases.progress(call.host, &this).map(|()| Reply::none()),
        "HttpNfcLeaseComplete" => call.host.leases.complete(call.host, &this).map(|()| Reply::none()),
        "HttpNfcLeaseAbort" => call.host.leases.abort(call.host, &this).map(|()| Reply::none()),
        "HttpNfcLeaseGetManifest" => Ok(Reply::of(Value::objects("HttpNfcLeaseManifestEntry", []))),
        "CancelTask" => {
            call.host.tasks.cancel(&this.id);
            Ok(Reply::none())
        }
        _ => machine_call(call, &this),
    }
}

fn machine_call(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    match call.node.name.as_str() {
        "CreateSnapshot_Task" => snapshots::create(call, this),
        "RemoveSnapshot_Task" => snapshots::remove(call, this),
        "RemoveAllSnapshots_Task" => snapshots::remove_all(call, this),
        "ConsolidateVMDisks_Task" => snapshots::consolidate(call, this),
        "RevertToSnapshot_Task" => {
            let (machine, number) = call.host.find_snapshot(this)?;
            snapshots::revert(call, &machine, number)
        }
        "RevertToCurrentSnapshot_Task" => {
            let machine = call.host.find_machine(this)?;
            let current = machine.lock().current_snapshot;
            let number = current.ok_or_else(|| SoapFault::new("NotFound", "There is no snapshot."))?;
            snapshots::revert(call, &machine, number)
        }
        "QueryChangedDiskAreas" => snapshots::changed_areas(call, this),
        "ReconfigVM_Task" => machines::reconfigure(call, this),
        "PowerOnVM_Task" | "PowerOffVM_Task" => machines::power(call, this),
        "ShutdownGuest" => machines::shutdown_guest(call, this),
        "UnregisterVM" => machines::unregister(call, this),
        "Destroy_Task" => machines::destroy(call, this),
        "Rename_Task" => machines::rename(call, this),
        "CreateVM_Task" => machines::create(call),
        "RegisterVM_Task" => machines::register(call),
        "ImportVApp" => machines::import(call),
        "ExportVm" => {
            let machine = call.host.find_machine(this)?;
            lease::export(call.host, &machine, None, call.injected.as_ref()).map(Reply::of)
        }
        "ExportSnapshot" => {
            let (machine, number) = call.host.find_snapshot(this)?;
            lease::export(call.host, &machine, Some(number), call.injected.as_ref()).map(Reply::of)
        }
        "FindByUuid" | "FindByInventoryPath" | "FindChild" | "FindByDatastorePath" => machines::find(call),
        "SearchDatastore_Task" => Ok(files::search(call, this)),
        "DeleteDatastoreFile_Task" => Ok(files::delete(call, this)),
        "MakeDirectory" => files::make_directory(call),
        _ => Err(SoapFault::new("NotSupported", "The operation is not supported on the object.")),
    }
}

fn login(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let config = &call.host.config;
    if call.text("userName") != config.account || call.node.child("password").is_none_or(|p| p.text != config.password)
    {
        return Err(SoapFault::invalid_login());
    }
    if call.session.is_some() {
        return Err(SoapFault::invalid_state("The session is logged in already."));
    }
    let Some(session) = call.host.sessions.open(Door::Soap, &config.account, now()) else {
        let text = format!("Out of HTTP sessions: Limited to {}", config.limits.sessions_max);
        return Err(SoapFault::new(TOO_MANY_SESSIONS, text));
    };
    let answer = Object::new("UserSession")
        .with("key", &session.key)
        .with("userName", &session.user)
        .with("fullName", "Administrator")
        .with("loginTime", session.since)
        .with("lastActiveTime", now())
        .with("locale", "en")
        .with("messageLocale", "en")
        .with("extensionSession", false)
        .with("ipAddress", "127.0.0.1")
        .with("userAgent", "")
        .with("callCount", 0_i64);
    Ok(Reply { set_cookie: Some(set_cookie(&session.key)), ..Reply::of(answer) })
}

fn create_view(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let container = reference_in(call.node, "container");
    if !inventory::exists(call.host, &container) {
        return Err(SoapFault::not_found(&container));
    }
    let kinds = call.node.all("type").map(|kind| kind.text.trim().to_owned()).collect();
    let view = call.host.views.create_view(&call.session_key(), container, kinds, call.node.flag("recursive"))?;
    Ok(Reply::of(view))
}

fn retrieve(call: &Call<'_>) -> Result<Reply, SoapFault> {
    let specs = call.node.all("specSet").map(FilterSpec::read).collect::<Result<Vec<_>, _>>()?;
    let contents = collector::retrieve(call.host, &specs)?;
    if call.node.name == "RetrieveProperties" {
        return Ok(Reply::of(Value::objects("ObjectContent", contents)));
    }
    if contents.is_empty() {
        return Ok(Reply::none());
    }
    let asked = call.node.child("options").and_then(|options| options.number::<usize>("maxObjects"));
    if asked == Some(0) {
        return Err(SoapFault::invalid_argument("options.maxObjects"));
    }
    let limit = call.host.config.limits.objects_per_page;
    Ok(Reply::of(call.host.views.page(&call.session_key(), contents, asked.unwrap_or(limit).min(limit))))
}

fn wait_for_updates(call: &Call<'_>, this: &MoRef) -> Result<Reply, SoapFault> {
    let limit = call.node.child("options").and_then(|options| options.number::<u64>("maxWaitSeconds"));
    let limit = limit.map(Duration::from_secs);
    let updates =
        updates::wait_for_updates(call.host, &call.session_key(), this, call.text("version"), limit, call.version)?;
    Ok(updates.map_or_else(Reply::none, Reply::of))
}
