//! Get, query, invoke.

use super::embedded::Embedded;
use super::instance::{Instance, Reference};
use super::{Namespace, WMI};
use crate::hyperv::wire::{CallError, Node, Request, Wsman, Xml};
use crate::{ErrorKind, HostError};
use std::fmt::Display;

const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
const ENUMERATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
const PULL: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
const WQL: &str = "http://schemas.microsoft.com/wbem/wsman/1/WQL";
/// Instances per answer.
const MAX_ELEMENTS_PER_PULL: u32 = 50;
/// Times a list that breaks off is begun.
const MAX_QUERY_TRIES: u32 = 3;
/// Pulls of one query, and instances of its whole result.
const MAX_PULLS: u32 = 20_000;
const MAX_INSTANCES: usize = 500_000;

/// One instance by its keys.
pub(in crate::hyperv) async fn get(wsman: &dyn Wsman, target: &Reference) -> Result<Instance, CallError> {
    let request = Request {
        action: GET.to_owned(),
        resource: target.resource.clone(),
        selectors: target.selectors.clone(),
        body: String::new(),
        is_read: true,
    };
    let node = wsman.send(request).await?;
    Ok(Instance::from_node(&node))
}

/// All instances a WQL query finds. A list that breaks off is asked for anew.
pub(in crate::hyperv) async fn query(
    wsman: &dyn Wsman,
    namespace: Namespace,
    wql: &str,
) -> Result<Vec<Instance>, CallError> {
    for _ in 1..MAX_QUERY_TRIES {
        match query_once(wsman, namespace, wql).await {
            Err((Stage::Pull, error)) if error.is_passing() || error.is_any_fault(&["InvalidEnumerationContext"]) => {
                tokio::time::sleep(wsman.timeouts().back_off).await;
            }
            other => return other.map_err(|(_, error)| error),
        }
    }
    query_once(wsman, namespace, wql).await.map_err(|(_, error)| error)
}

/// Where a query failed.
enum Stage {
    /// Its first request, which is tried again below.
    Enumerate,
    Pull,
}

/// The resource ends in `/*`: a class with a filter is a fault.
async fn query_once(wsman: &dyn Wsman, namespace: Namespace, wql: &str) -> Result<Vec<Instance>, (Stage, CallError)> {
    let broken = |reason: String| (Stage::Enumerate, bad_answer(wsman, wql, reason));
    let resource = namespace.uri("*");
    let mut body = Xml::default();
    body.group("n:Enumerate", |enumerate| {
        enumerate.empty("w:OptimizeEnumeration").text("w:MaxElements", MAX_ELEMENTS_PER_PULL);
        enumerate.text(&format!("w:Filter Dialect=\"{WQL}\""), wql);
    });
    let first = wsman.send(read(ENUMERATE, &resource, body)).await;
    let mut answer = first.map_err(|error| (Stage::Enumerate, error))?;
    let mut found = Vec::new();
    for _ in 0..MAX_PULLS {
        if let Some(items) = answer.child("Items") {
            found.extend(items.children.iter().map(Instance::from_node));
        }
        if found.len() > MAX_INSTANCES {
            return Err(broken(format!("it lists more than {MAX_INSTANCES} instances")));
        }
        if answer.child("EndOfSequence").is_some() {
            return Ok(found);
        }
        let Some(context) = answer.text_at(&["EnumerationContext"]).filter(|context| !context.is_empty()) else {
            return Err(broken("its list neither ends nor goes on".to_owned()));
        };
        let mut body = Xml::default();
        body.group("n:Pull", |pull| {
            pull.text("n:EnumerationContext", context).text("n:MaxElements", MAX_ELEMENTS_PER_PULL);
        });
        // A pull moves the context on, so an answer that was lost cannot be asked for again.
        let next = wsman.send(Request { is_read: false, ..read(PULL, &resource, body) }).await;
        answer = next.map_err(|error| (Stage::Pull, error))?;
    }
    Err(broken(format!("its list does not end within {MAX_PULLS} answers")))
}

/// A service of Hyper-V, found by its class alone as each host has one.
pub(in crate::hyperv) fn service(class: &str) -> Reference {
    Reference::new(Namespace::Virtualization.uri(class), &[("CreationClassName", class)])
}

/// The arguments of a method, in the schema's order.
#[derive(Default)]
pub(in crate::hyperv) struct Arguments(Xml);

impl Arguments {
    pub(in crate::hyperv) fn text(mut self, name: &str, value: impl Display) -> Self {
        self.0.text(&format!("p:{name}"), value);
        self
    }

    /// `Address` and `ReferenceParameters` directly: an `EndpointReference` around them is a fault.
    pub(in crate::hyperv) fn reference(mut self, name: &str, reference: &Reference) -> Self {
        self.0.group(&format!("p:{name}"), |argument| {
            argument.text("a:Address", crate::hyperv::wire::ANONYMOUS);
            argument.group("a:ReferenceParameters", |parameters| {
                parameters.text("w:ResourceURI", &reference.resource);
                parameters.group("w:SelectorSet", |set| {
                    crate::hyperv::wire::write_selectors(set, &reference.selectors);
                });
            });
        });
        self
    }

    pub(in crate::hyperv) fn embedded(mut self, name: &str, instance: Embedded) -> Self {
        self.0.cdata(&format!("p:{name}"), &instance.into_text());
        self
    }
}

/// Calls a method once and returns its output, whatever its return value says.
pub(in crate::hyperv) async fn invoke(
    wsman: &dyn Wsman,
    target: &Reference,
    method: &str,
    arguments: Arguments,
    is_read: bool,
) -> Result<Instance, CallError> {
    let mut body = Xml::default();
    body.group(&format!("p:{method}_INPUT xmlns:p=\"{}\"", target.resource), |input| {
        input.raw(&arguments.0.into_string());
    });
    let request = Request {
        action: format!("{}/{method}", target.resource),
        resource: target.resource.clone(),
        selectors: target.selectors.clone(),
        body: body.into_string(),
        is_read,
    };
    let node = wsman.send(request).await?;
    if node.name != format!("{method}_OUTPUT") {
        return Err(bad_answer(wsman, method, format!("it answered {method} with \"{}\"", shorten(&node))));
    }
    Ok(Instance::from_node(&node))
}

fn read(action: &str, resource: &str, body: Xml) -> Request {
    Request {
        action: action.to_owned(),
        resource: resource.to_owned(),
        selectors: Vec::new(),
        body: body.into_string(),
        is_read: true,
    }
}

fn shorten(node: &Node) -> String {
    node.name.chars().take(100).collect()
}

pub(super) fn bad_answer(wsman: &dyn Wsman, attempt: &str, reason: impl Into<String>) -> CallError {
    CallError::Host(HostError {
        kind: ErrorKind::Protocol,
        code: "hyperv.bad_answer",
        host: wsman.host().to_owned(),
        attempt: attempt.to_owned(),
        reason: reason.into(),
        hint: "The host answered in a way it should not; please report it with the host's version.".into(),
        source: None,
    })
}

/// Only references of WMI are followed.
pub(super) fn is_wmi(reference: &Reference) -> bool {
    reference.resource.starts_with(WMI)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::script::Script;
    use crate::hyperv::wmi::Kind;

    #[tokio::test]
    async fn a_query_pulls_until_the_end() {
        let script = Script::new([
            Ok(
                "<EnumerateResponse><EnumerationContext>c1</EnumerationContext><Items><X><Name>1</Name></X></Items></EnumerateResponse>",
            ),
            Ok(
                "<PullResponse><EnumerationContext>c2</EnumerationContext><Items><X><Name>2</Name></X></Items></PullResponse>",
            ),
            Ok("<PullResponse><Items><X><Name>3</Name></X></Items><EndOfSequence/></PullResponse>"),
        ]);
        let found = query(&script, Namespace::Virtualization, "SELECT * FROM X WHERE a='<'").await.unwrap();
        assert_eq!(found.iter().map(|x| x.word("Name")).collect::<Vec<_>>(), ["1", "2", "3"]);
        let asked = script.asked();
        assert!(asked[0].resource.ends_with("/root/virtualization/v2/*"));
        assert_eq!(
            asked[0].body,
            "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>50</w:MaxElements>\
             <w:Filter Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\">SELECT * FROM X WHERE a='&lt;'</w:Filter>\
             </n:Enumerate>"
        );
        assert!(asked[0].is_read && !asked[1].is_read);
        assert!(asked[2].body.contains("<n:EnumerationContext>c2</n:EnumerationContext>"));
    }

    #[tokio::test]
    async fn a_list_that_neither_ends_nor_goes_on_is_refused() {
        let script = Script::new([Ok("<EnumerateResponse><Items/></EnumerateResponse>")]);
        let error = query(&script, Namespace::Cimv2, "SELECT * FROM X").await.unwrap_err();
        assert!(matches!(error, CallError::Host(error) if error.code == "hyperv.bad_answer"));
    }

    #[tokio::test]
    async fn a_method_is_called_as_the_sheet_says() {
        let script = Script::new([Ok("<CreateSnapshot_OUTPUT><ReturnValue>0</ReturnValue></CreateSnapshot_OUTPUT>")]);
        let machine = Reference::new(
            Namespace::Virtualization.uri("Msvm_ComputerSystem"),
            &[("CreationClassName", "Msvm_ComputerSystem"), ("Name", "G")],
        );
        let settings = Embedded::new("S").property("N", Kind::Text, "a]]>b");
        let arguments =
            Arguments::default().reference("AffectedSystem", &machine).embedded("SnapshotSettings", settings);
        let target = service("Msvm_VirtualSystemSnapshotService");
        invoke(&script, &target, "CreateSnapshot", arguments.text("SnapshotType", 32768), false).await.unwrap();
        let asked = script.asked();
        let p = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2";
        assert_eq!(asked[0].action, format!("{p}/Msvm_VirtualSystemSnapshotService/CreateSnapshot"));
        assert_eq!(
            asked[0].selectors,
            [("CreationClassName".to_owned(), "Msvm_VirtualSystemSnapshotService".to_owned())]
        );
        assert_eq!(
            asked[0].body,
            format!(
                "<p:CreateSnapshot_INPUT xmlns:p=\"{p}/Msvm_VirtualSystemSnapshotService\"><p:AffectedSystem>\
                 <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>\
                 <a:ReferenceParameters><w:ResourceURI>{p}/Msvm_ComputerSystem</w:ResourceURI><w:SelectorSet>\
                 <w:Selector Name=\"CreationClassName\">Msvm_ComputerSystem</w:Selector><w:Selector Name=\"Name\">G</w:Selector>\
                 </w:SelectorSet></a:ReferenceParameters></p:AffectedSystem><p:SnapshotSettings><![CDATA[<INSTANCE \
                 CLASSNAME=\"S\"><PROPERTY NAME=\"N\" TYPE=\"string\"><VALUE>a]]&gt;b</VALUE></PROPERTY></INSTANCE>]]>\
                 </p:SnapshotSettings><p:SnapshotType>32768</p:SnapshotType></p:CreateSnapshot_INPUT>"
            )
        );
    }

    #[tokio::test]
    async fn an_answer_to_something_else_is_refused() {
        let script = Script::new([Ok("<Other_OUTPUT/>")]);
        let error = invoke(&script, &service("S"), "Do", Arguments::default(), false).await.unwrap_err();
        assert!(matches!(error, CallError::Host(error) if error.kind == ErrorKind::Protocol));
    }
}
