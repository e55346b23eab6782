//! The envelope, queries and pages.

use reqwest::StatusCode;
use simulators::hyperv::samba::Encryption;
use simulators::hyperv::{Files, WireRule};

use crate::bench::{Bench, ENUMERATE, GET, P, PULL, all_between, between, envelope};

#[tokio::test]
async fn an_envelope_needs_all_its_headers_and_nothing_unknown() {
    let bench = Bench::new(|_| {}).await;
    let good = envelope(GET, &format!("{P}/Msvm_ComputerSystem"), &[("Name", "HV-A")], "");
    assert_eq!(bench.post(good.clone()).await.unwrap().0, 200);
    let headers = ["a:To", "w:ResourceURI", "a:ReplyTo", "a:Action", "w:MaxEnvelopeSize", "a:MessageID"];
    for name in headers {
        let (before, rest) = good.split_once(&format!("<{name}>")).unwrap();
        let (_, after) = rest.split_once(&format!("</{name}>")).unwrap();
        let (status, text) = bench.post(format!("{before}{after}")).await.unwrap();
        assert_eq!(status, 500, "{name}");
        assert!(text.contains("MessageInformationHeaderRequired"), "{name}: {text}");
    }
    for (from, to) in [
        ("http://www.w3.org/2003/05/soap-envelope", "http://schemas.xmlsoap.org/soap/envelope/"),
        ("http://schemas.xmlsoap.org/ws/2004/08/addressing\"", "http://www.w3.org/2005/08/addressing\""),
        ("<a:To>", "<w:Nonsense/><a:To>"),
        ("<a:To>", "<x:Nonsense xmlns:x=\"urn:x\" s:mustUnderstand=\"true\"/><a:To>"),
        ("role/anonymous", "role/somebody"),
        ("PT60S", "60 seconds"),
        (">512000<", ">4096<"),
        ("</s:Envelope>", ""),
    ] {
        let (status, text) = bench.post(good.replace(from, to)).await.unwrap();
        assert_eq!(status, 500, "{to}: {text}");
    }
    assert_eq!(bench.host.crimes().iter().filter(|crime| crime.rule == WireRule::Envelope).count(), headers.len() + 8);
    // What need not be understood may be there.
    let (status, _) = bench.post(good.replace("<a:To>", "<x:Locale xmlns:x=\"urn:x\"/><a:To>")).await.unwrap();
    assert_eq!(status, 200);
}

#[tokio::test]
async fn pages_end_at_the_count_and_at_the_envelope() {
    let bench = Bench::new(|_| {}).await;
    let uri = format!("{P}/CIM_ResourceAllocationSettingData");
    let (_, begun) = bench.send(ENUMERATE, &uri, &[], "<n:Enumerate/>").await;
    let mut context = between(&begun, "<n:EnumerationContext>", "<").to_owned();
    let (mut items, mut pages) = (0, 0);
    loop {
        let body = format!(
            "<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext><n:MaxElements>500</n:MaxElements></n:Pull>"
        );
        let pull = envelope(PULL, &uri, &[], &body).replace(">512000<", ">8192<");
        let (status, text) = bench.post(pull).await.unwrap();
        assert_eq!(status, 200, "{text}");
        assert!(text.len() <= 8192, "a page of {} bytes", text.len());
        items += all_between(&text, "<p:InstanceID>", "<").len();
        pages += 1;
        if text.contains("<n:EndOfSequence/>") {
            break;
        }
        between(&text, "<n:EnumerationContext>", "<").clone_into(&mut context);
    }
    assert!(pages > 3, "{pages} pages");
    let whole = bench.wql("select * from CIM_ResourceAllocationSettingData").await;
    assert_eq!(items, all_between(&whole, "<p:InstanceID>", "<").len());
    let body = format!("<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext></n:Pull>");
    let (status, text) = bench.send(PULL, &uri, &[], &body).await;
    assert_eq!(status, 500);
    assert!(text.contains("n:InvalidEnumerationContext"), "{text}");
    assert_eq!(bench.host.open_enumerations(), 0);
}

#[tokio::test]
async fn the_inventory_hangs_together() {
    let bench = Bench::new(|config| config.machines[1].checkpoints = vec!["before".to_owned()]).await;
    let id = bench.id("on-01");
    let parts = bench
        .wql(&format!(
            "associators of {{Msvm_VirtualSystemSettingData.InstanceID='Microsoft:{id}'}} \
             where AssocClass=Msvm_VirtualSystemSettingDataComponent"
        ))
        .await;
    for class in ["Msvm_MemorySettingData", "Msvm_ProcessorSettingData", "Msvm_EthernetPortAllocationSettingData"] {
        assert!(parts.contains(&format!("<p:{class} ")), "{class}: {parts}");
    }
    let disk = parts.split("<p:Msvm_StorageAllocationSettingData ").nth(1).unwrap();
    // The disk's parent is its drive, the drive's the controller: paths with doubled backslashes.
    let drive = between(disk, "<p:Parent>", "<").replace("&quot;", "\"");
    assert!(
        drive.starts_with(r"\\HV-A\root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="),
        "{drive}"
    );
    let drive = between(&drive, "InstanceID=\"", "\"");
    let found =
        bench.wql(&format!("select * from Msvm_ResourceAllocationSettingData where InstanceID='{drive}'")).await;
    assert!(found.contains("Synthetic Disk Drive") && found.contains("<p:AddressOnParent>0<"), "{found}");
    let systems = format!(
        "associators of {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{}'}} \
         where AssocClass = Msvm_SnapshotOfVirtualSystem ResultClass = Msvm_VirtualSystemSettingData",
        bench.id("off-01")
    );
    let found = bench.wql(&systems).await;
    assert!(found.contains("<p:ElementName>before<") && found.contains("Snapshot:Realized"), "{found}");
    let old = bench.host.machine("off-01").unwrap();
    assert!(old.disks[0].path.contains(".avhdx"), "{old:?}");
    let one = bench.wql("select Name, EnabledState from Msvm_ComputerSystem where ElementName = 'on-01'").await;
    assert!(one.contains("<w:XmlFragment") && one.contains("<p:EnabledState>2<") && !one.contains("Caption"), "{one}");
}

#[tokio::test]
async fn doors_are_shut_to_strangers() {
    let bench = Bench::new(|_| {}).await;
    let body = || envelope(GET, &format!("{P}/Msvm_ComputerSystem"), &[("Name", "HV-A")], "");
    let url = format!("https://{}/wsman", bench.host.tls_address());
    let soap = "application/soap+xml;charset=UTF-8";
    let post = |url: &str| bench.http.post(url).header("content-type", soap).body(body());
    let answer = post(&url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers().get_all("www-authenticate").iter().count(), 2);
    assert_eq!(post(&url).basic_auth("Administrator", Some("wrong")).send().await.unwrap().status(), 401);
    assert!(bench.host.crimes().is_empty());
    let clear = format!("http://{}/wsman", bench.host.http_address());
    let answer = post(&clear).basic_auth("Administrator", Some("simulated")).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    let empty = bench.http.post(&clear).basic_auth("Administrator", Some("simulated")).send().await.unwrap();
    assert_eq!(empty.status(), 401);
    let rules: Vec<_> = bench.host.crimes().into_iter().map(|crime| crime.rule).collect();
    assert_eq!(rules, [WireRule::ClearBody, WireRule::ClearPassword, WireRule::ClearPassword]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drive_is_served_and_served_again_after_a_cut() {
    let files = Files::Served { port: None, encryption: Encryption::Offered };
    let bench = Bench::new(|config| config.files = files).await;
    let address = bench.host.smb_address().unwrap();
    let session = std::net::TcpStream::connect(address).unwrap();
    tokio::task::block_in_place(|| bench.host.cut_files()).unwrap();
    let _ = session.shutdown(std::net::Shutdown::Both);
    std::net::TcpStream::connect(address).unwrap();
    bench.host.stop().await;
    assert!(std::net::TcpStream::connect(address).is_err(), "it ends with the host");
}
