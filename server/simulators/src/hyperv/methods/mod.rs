//! Methods: a table of what there is, the strict way in, the way out. What each does is in the files below.

mod images;
pub(crate) mod power;
mod resources;
pub(crate) mod snapshots;
pub(crate) mod systems;

use std::sync::Arc;

use uuid::Uuid;

use super::crimes::Rule;
use super::host::Host;
use super::inject::Action;
use super::jobs::{self, FAILED, JobError, Subject};
use super::machine::{Machine, settings_id};
use super::model::embedded::Embedded;
use super::model::instance::Instance;
use super::model::path::ObjectPath;
use super::model::schema::{Class, schema};
use super::model::value::Value;
use super::query;
use super::wire::envelope::{Request, Resource, selectors};
use super::wire::fault::{Fault, code};
use super::wire::names;
use crate::SimulatorError;
use crate::xml::Node;

/// Elements of an array parameter.
const ITEMS_MAX: usize = 256;
/// `ReturnValue`: a job was started.
pub(crate) const STARTED: u32 = 4096;
pub(crate) const RETURN_FAILED: u32 = 32768;
pub(crate) const RETURN_INVALID_PARAMETER: u32 = 32773;
pub(crate) const RETURN_INVALID_STATE: u32 = 32775;

/// Types of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Text,
    Number,
    Flag,
    /// To an instance of this class.
    Reference(&'static str),
    /// CIM-XML of this class, or of what inherits from it.
    Instance(&'static str),
    Instances(&'static str),
    References(&'static str),
}

type Run = fn(&Call<'_>) -> Result<Output, Refusal>;

/// A method.
struct Method {
    class: &'static str,
    name: &'static str,
    parameters: &'static [(&'static str, Takes)],
    run: Run,
}

const SYSTEM: &str = "Msvm_ComputerSystem";
const SETTINGS: &str = "Msvm_VirtualSystemSettingData";
const RESOURCE: &str = "CIM_ResourceAllocationSettingData";
const MANAGEMENT: &str = "Msvm_VirtualSystemManagementService";
const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";
const IMAGES: &str = "Msvm_ImageManagementService";

static METHODS: [Method; 16] = [
    Method {
        class: SNAPSHOTS,
        name: "CreateSnapshot",
        parameters: &[
            ("AffectedSystem", Takes::Reference(SYSTEM)),
            ("SnapshotSettings", Takes::Instance("Msvm_VirtualSystemSnapshotSettingData")),
            ("SnapshotType", Takes::Number),
        ],
        run: snapshots::create,
    },
    Method {
        class: SNAPSHOTS,
        name: "DestroySnapshot",
        parameters: &[("AffectedSnapshot", Takes::Reference(SETTINGS))],
        run: snapshots::destroy,
    },
    Method {
        class: SNAPSHOTS,
        name: "ConvertToReferencePoint",
        parameters: &[
            ("AffectedSnapshot", Takes::Reference(SETTINGS)),
            ("ReferencePointSettings", Takes::Instance("Msvm_VirtualSystemReferencePointSettingData")),
        ],
        run: snapshots::convert,
    },
    Method {
        class: "Msvm_VirtualSystemReferencePointService",
        name: "DestroyReferencePoint",
        parameters: &[("AffectedReferencePoint", Takes::Reference(super::inventory::REFERENCE_POINT))],
        run: snapshots::destroy_point,
    },
    Method {
        class: IMAGES,
        name: "GetVirtualDiskChanges",
        parameters: &[
            ("Path", Takes::Text),
            ("LimitId", Takes::Text),
            ("TargetSnapshotId", Takes::Text),
            ("ByteOffset", Takes::Number),
            ("ByteLength", Takes::Number),
        ],
        run: images::changes,
    },
    Method {
        class: IMAGES,
        name: "GetVirtualHardDiskSettingData",
        parameters: &[("Path", Takes::Text)],
        run: images::settings,
    },
    Method {
        class: IMAGES,
        name: "ValidateVirtualHardDisk",
        parameters: &[("Path", Takes::Text)],
        run: images::validate,
    },
    Method {
        class: MANAGEMENT,
        name: "DefineSystem",
        parameters: &[
            ("SystemSettings", Takes::Instance(SETTINGS)),
            ("ResourceSettings", Takes::Instances(RESOURCE)),
            ("ReferenceConfiguration", Takes::Reference(SETTINGS)),
        ],
        run: systems::define,
    },
    Method {
        class: MANAGEMENT,
        name: "ModifySystemSettings",
        parameters: &[("SystemSettings", Takes::Instance(SETTINGS))],
        run: systems::modify,
    },
    Method {
        class: MANAGEMENT,
        name: "DestroySystem",
        parameters: &[("AffectedSystem", Takes::Reference(SYSTEM))],
        run: systems::destroy,
    },
    Method {
        class: MANAGEMENT,
        name: "AddResourceSettings",
        parameters: &[
            ("AffectedConfiguration", Takes::Reference(SETTINGS)),
            ("ResourceSettings", Takes::Instances(RESOURCE)),
        ],
        run: resources::add,
    },
    Method {
        class: MANAGEMENT,
        name: "ModifyResourceSettings",
        parameters: &[("ResourceSettings", Takes::Instances(RESOURCE))],
        run: resources::modify,
    },
    Method {
        class: MANAGEMENT,
        name: "RemoveResourceSettings",
        parameters: &[("ResourceSettings", Takes::References(RESOURCE))],
        run: resources::remove,
    },
    Method {
        class: SYSTEM,
        name: "RequestStateChange",
        parameters: &[("RequestedState", Takes::Number), ("TimeoutPeriod", Takes::Text)],
        run: power::request,
    },
    Method {
        class: "Msvm_ConcreteJob",
        name: "RequestStateChange",
        parameters: &[("RequestedState", Takes::Number), ("TimeoutPeriod", Takes::Text)],
        run: systems::end_job,
    },
    Method {
        class: "Msvm_ShutdownComponent",
        name: "InitiateShutdown",
        parameters: &[("Force", Takes::Flag), ("Reason", Takes::Text)],
        run: power::shut_down,
    },
];

/// What a client gave for a parameter.
enum Argument {
    Text(String),
    References(Vec<ObjectPath>),
    Instances(Vec<Embedded>),
}

/// A call on its way.
struct Call<'a> {
    host: &'a Arc<Host>,
    method: &'static Method,
    target: Instance,
    arguments: Vec<(&'static str, Argument)>,
    injected: Option<Action>,
}

/// What a method answers, without `ReturnValue`.
#[derive(Default)]
struct Output {
    values: Vec<(&'static str, Value)>,
    code: u32,
}

/// Why a method does nothing.
enum Refusal {
    /// `ReturnValue`.
    Code(u32),
}

impl From<SimulatorError> for Refusal {
    fn from(error: SimulatorError) -> Self {
        tracing::warn!(%error, "the simulated host failed");
        Self::Code(RETURN_FAILED)
    }
}

impl Output {
    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.values.push((name, value.into()));
        self
    }
}

impl Call<'_> {
    fn reference(&self, name: &str) -> Result<&ObjectPath, Refusal> {
        match self.argument(name) {
            Some(Argument::References(paths)) => paths.first().ok_or(Refusal::Code(RETURN_INVALID_PARAMETER)),
            _ => Err(Refusal::Code(RETURN_INVALID_PARAMETER)),
        }
    }

    fn references(&self, name: &str) -> &[ObjectPath] {
        match self.argument(name) {
            Some(Argument::References(paths)) => paths,
            _ => &[],
        }
    }

    fn instances(&self, name: &str) -> &[Embedded] {
        match self.argument(name) {
            Some(Argument::Instances(instances)) => instances,
            _ => &[],
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.argument(name) {
            Some(Argument::Text(text)) => Some(text.as_str()),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> Result<u64, Refusal> {
        let text = self.text(name).ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))?;
        text.trim().parse().map_err(|_| Refusal::Code(RETURN_INVALID_PARAMETER))
    }

    fn argument(&self, name: &str) -> Option<&Argument> {
        self.arguments.iter().find(|(known, _)| *known == name).map(|(_, argument)| argument)
    }

    /// The machine a reference names.
    fn machine(&self, name: &str) -> Result<Machine, Refusal> {
        let path = self.reference(name)?;
        let id = path.key("Name").and_then(|name| Uuid::parse_str(name).ok());
        id.and_then(|id| self.host.machine(id)).ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))
    }

    /// The settings a reference names: their machine and their own id, which is the machine's or a checkpoint's.
    fn settings(&self, name: &str) -> Result<(Machine, Uuid), Refusal> {
        settings_of(self.host, self.reference(name)?.key("InstanceID").unwrap_or_default())
            .ok_or(Refusal::Code(RETURN_INVALID_PARAMETER))
    }

    /// Starts a job and answers 4096, or 32775 when the machine is busy.
    fn start(
        &self,
        machine: Option<Uuid>,
        work: impl FnOnce(&Arc<Host>) -> Result<Vec<ObjectPath>, JobError> + Send + 'static,
    ) -> Result<Output, Refusal> {
        let class = if self.method.class == IMAGES { "Msvm_StorageJob" } else { "Msvm_ConcreteJob" };
        let subject = Subject { class, caption: self.method.name.to_owned(), machine };
        let job = jobs::start(self.host, subject, self.injected.clone(), work);
        let job = job.ok_or(Refusal::Code(RETURN_INVALID_STATE))?;
        Ok(Output { code: STARTED, ..Output::default() }.with("Job", job))
    }

    /// Answers 4096 with a job that fails.
    fn start_failing(&self, error: JobError) -> Result<Output, Refusal> {
        self.start(None, move |_| Err(error))
    }
}

/// The settings of that `InstanceID`.
fn settings_of(host: &Host, id: &str) -> Option<(Machine, Uuid)> {
    host.read(|state| {
        state.machines.iter().find_map(|machine| {
            let mut ids = std::iter::once(machine.id).chain(machine.snapshots.iter().map(|snapshot| snapshot.id));
            let found = ids.find(|own| settings_id(*own).eq_ignore_ascii_case(id))?;
            Some((machine.clone(), found))
        })
    })
}

/// Whether an action of this name is one of the class; the method's name.
pub(crate) fn name_of(request: &Request) -> Option<&str> {
    request.action.strip_prefix(request.resource.uri.as_str())?.strip_prefix('/')
}

/// Carries out an `Invoke`; answers the body.
pub(crate) fn invoke(host: &Arc<Host>, request: &Request, injected: Option<Action>) -> Result<String, Fault> {
    let class = query::class_of(&request.resource)?;
    let name = name_of(request).unwrap_or_default();
    let method = METHODS.iter().find(|method| method.class == class.name && method.name == name).ok_or_else(|| {
        let reason = format!("{} has no method {name}.", class.name);
        Fault::new("a:ActionNotSupported", code::INVALID_ACTION, reason)
    })?;
    let target = target(host, class, request)?;
    let arguments = arguments(method, class, request)?;
    let call = Call { host, method, target, arguments, injected };
    let output = match &call.injected {
        Some(Action::Returns(code)) => Err(Refusal::Code(*code)),
        _ => run(&call),
    };
    let output = match output {
        Ok(output) => output,
        Err(Refusal::Code(code)) => Output { values: Vec::new(), code },
    };
    Ok(write(class, method.name, &output))
}

fn run(call: &Call<'_>) -> Result<Output, Refusal> {
    let instances = call.arguments.iter().filter_map(|(_, argument)| match argument {
        Argument::Instances(instances) => Some(instances),
        _ => None,
    });
    if let Some(name) = instances.flatten().find_map(|instance| instance.bad_datetime) {
        call.host.crimes.add(Rule::DatetimeForm, format!("{}: {name}", call.method.name));
        return call.start_failing(JobError::new(FAILED, format!("{name} is not a datetime of CIM.")));
    }
    (call.method.run)(call)
}

/// The instance a call is made on. A service needs its class as a selector.
fn target(host: &Host, class: &'static Class, request: &Request) -> Result<Instance, Fault> {
    let selector = request.selectors.iter().find(|(name, _)| name.eq_ignore_ascii_case("CreationClassName"));
    if class.is("CIM_Service") && selector.is_none_or(|(_, value)| !value.eq_ignore_ascii_case(class.name)) {
        let reason = format!("A call on {} needs the selector CreationClassName.", class.name);
        return Err(Fault::internal(code::WBEM_INVALID_METHOD_PARAMETERS, reason).breaks(Rule::ServiceSelector));
    }
    query::get(host, class, &request.selectors)
}

fn arguments(method: &Method, class: &Class, request: &Request) -> Result<Vec<(&'static str, Argument)>, Fault> {
    let uri = class.uri();
    let wrong = |what: String| Fault::schema(what).breaks(Rule::Envelope);
    let wanted = format!("{}_INPUT", method.name);
    let body = request.body.as_ref().filter(|node| node.ns == uri && node.name == wanted);
    let body = body.ok_or_else(|| wrong(format!("The body is a {wanted} in the namespace {uri}.")))?;
    let mut found: Vec<(&'static str, Argument)> = Vec::new();
    for node in &body.children {
        let known = method.parameters.iter().find(|(name, _)| node.ns == uri && *name == node.name);
        let (name, takes) =
            known.ok_or_else(|| wrong(format!("{} has no parameter {} in '{}'.", method.name, node.name, node.ns)))?;
        if is_nil(node) {
            continue;
        }
        let argument = argument(node, *takes)?;
        match (found.iter_mut().find(|(seen, _)| seen == name), argument) {
            (None, argument) => found.push((name, argument)),
            (Some((_, Argument::Instances(all))), Argument::Instances(more))
                if matches!(takes, Takes::Instances(_)) =>
            {
                all.extend(more);
            }
            (Some((_, Argument::References(all))), Argument::References(more))
                if matches!(takes, Takes::References(_)) =>
            {
                all.extend(more);
            }
            _ => return Err(wrong(format!("{name} is there twice."))),
        }
        if body.children.len() > ITEMS_MAX {
            return Err(wrong("There are too many parameters.".to_owned()));
        }
    }
    Ok(found)
}

fn is_nil(node: &Node) -> bool {
    node.attributes.iter().any(|(ns, name, value)| ns == names::XSI && name == "nil" && value == "true")
}

fn argument(node: &Node, takes: Takes) -> Result<Argument, Fault> {
    let name = &node.name;
    match takes {
        Takes::Text | Takes::Number | Takes::Flag => {
            if !node.children.is_empty() {
                return Err(Fault::schema(format!("{name} holds elements.")).breaks(Rule::Envelope));
            }
            let text = node.text.trim();
            let fits = match takes {
                Takes::Number => text.parse::<u64>().is_ok(),
                Takes::Flag => matches!(text, "true" | "false" | "1" | "0"),
                _ => true,
            };
            if fits {
                Ok(Argument::Text(node.text.clone()))
            } else {
                Err(Fault::schema(format!("{name} has the value '{text}'.")).breaks(Rule::Envelope))
            }
        }
        Takes::Reference(class) | Takes::References(class) => Ok(Argument::References(vec![reference(node, class)?])),
        Takes::Instance(class) | Takes::Instances(class) => {
            if !node.children.is_empty() {
                let reason = format!("{name} holds elements instead of the text of an instance.");
                return Err(Fault::schema(reason).breaks(Rule::InstanceForm));
            }
            if node.text.trim().is_empty() {
                return Ok(Argument::Instances(Vec::new()));
            }
            Ok(Argument::Instances(vec![Embedded::parse(node.text.trim(), class)?]))
        }
    }
}

/// Reads an endpoint reference.
fn reference(node: &Node, class: &str) -> Result<ObjectPath, Fault> {
    let wrong = |what: &str| Fault::schema(format!("{}: {what}", node.name)).breaks(Rule::WrappedReference);
    let child = |node: &Node, ns: &str, name: &str| {
        node.children.iter().find(|child| child.ns == ns && child.name == name).cloned()
    };
    let allowed =
        |child: &Node| child.ns == names::ADDRESSING && ["Address", "ReferenceParameters"].contains(&&*child.name);
    if !node.children.iter().all(allowed) {
        return Err(wrong("a reference holds Address and ReferenceParameters directly."));
    }
    let address = child(node, names::ADDRESSING, "Address").ok_or_else(|| wrong("no Address."))?;
    if address.text.trim().is_empty() {
        return Err(wrong("an empty Address."));
    }
    let parameters =
        child(node, names::ADDRESSING, "ReferenceParameters").ok_or_else(|| wrong("no ReferenceParameters."))?;
    let uri = child(&parameters, names::WSMAN, "ResourceURI").ok_or_else(|| wrong("no ResourceURI."))?;
    let resource = Resource::parse(uri.text.trim())?;
    let set = child(&parameters, names::WSMAN, "SelectorSet").ok_or_else(|| wrong("no SelectorSet."))?;
    let found = schema().class(&resource.class).filter(|found| found.is(class));
    let found = found.ok_or_else(|| wrong(&format!("a reference to {class} is wanted.")))?;
    Ok(ObjectPath { class: found.name.to_owned(), keys: selectors(&set)? })
}

fn write(class: &Class, method: &str, output: &Output) -> String {
    let mut out = format!(
        "<p:{method}_OUTPUT xmlns:xsi=\"{}\" xmlns:p=\"{}\" xmlns:cim=\"{}\">",
        names::XSI,
        class.uri(),
        names::CIM
    );
    for (name, value) in &output.values {
        value.write(&mut out, "p", name);
    }
    out + "<p:ReturnValue>" + &output.code.to_string() + "</p:ReturnValue></p:" + method + "_OUTPUT>"
}
