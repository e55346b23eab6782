//! Namespaces, actions and addresses of WS-Management as Windows speaks it. Sources: DSP0226, [MS-WSMV] 2.2.1.

pub(crate) const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
pub(crate) const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
pub(crate) const ENUMERATION: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration";
pub(crate) const WSMAN: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
pub(crate) const IDENTITY: &str = "http://schemas.dmtf.org/wbem/wsman/identify/1/wsmanidentity.xsd";
pub(crate) const WSMAN_FAULT: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault";
pub(crate) const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/common";
pub(crate) const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
pub(crate) const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";
pub(crate) const WQL: &str = "http://schemas.microsoft.com/wbem/wsman/1/WQL";
/// What resource URIs of WMI begin with; then namespace, then class or `*`.
pub(crate) const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/";

pub(crate) const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
pub(crate) const ENUMERATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
pub(crate) const PULL: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
pub(crate) const RELEASE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Release";
pub(crate) const FAULT: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault";
