//! The Hyper-V driver against the simulated host and its Samba, which share no code with it: whole backups and restores byte
//! for byte. What a real Windows does was never seen.

use crate::hyperv_lab::{Lab, digest, read_into, request, web};
use bytes::Bytes;
use domain::point::{ChangeMark, Consistency};
use futures_util::TryStreamExt as _;
use hypervisor::hyperv::Transport;
use hypervisor::{Areas, Hypervisor, RestoreRequest, ShutDown};
use simulators::hyperv::{DISK_FOLDER, MachineSpec};
use std::time::Duration;

async fn three_backups(transport: Transport) {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(transport).await;
    let web = lab.reference("web");
    let (mut copies, mut marks): (Vec<Vec<u8>>, Vec<ChangeMark>) = (vec![Vec::new(); 2], Vec::new());
    for round in 0..3 {
        lab.guest_writes("web");
        let frozen = lab.digests("web");
        let snapshot = host.create_snapshot(&web, &request(&round.to_string())).await.expect("a checkpoint");
        assert_eq!(snapshot.consistency, Consistency::Application, "{:?}", snapshot.warnings);
        let own = host.list_own_snapshots(&web).await.expect("a list");
        assert_eq!(own.iter().map(|own| own.name.as_str()).collect::<Vec<_>>(), [format!("stillframe-{round}")]);
        lab.guest_writes("web");
        let disks = host.open_disks(&web, &snapshot).await.expect("open");
        assert_eq!(disks.len(), 2);
        for (disk, (copy, wanted)) in disks.iter().zip(copies.iter_mut().zip(&frozen)) {
            let mark = marks.iter().find(|mark| mark.disk_key == disk.key());
            let read = read_into(copy, disk, mark).await;
            assert!(mark.is_none() || read < disk.size_bytes(), "round {round} reads what changed, not {read} bytes");
            assert_eq!(digest(copy), *wanted, "round {round}, disk {}", disk.key());
        }
        let sealed = host.seal_snapshot(&web, &snapshot).await.expect("marks");
        assert_eq!((sealed.marks.len(), sealed.unmarked.len()), (2, 0), "{sealed:?}");
        host.remove_snapshot(&web, &snapshot.reference).await.expect("gone already");
        host.forget_marks(&web, &marks).await.expect("forgotten");
        host.forget_marks(&web, &marks).await.expect("gone already");
        marks = sealed.marks;
        lab.assert_clean("web");
        assert_eq!(lab.machine("web").reference_points.len(), 1, "only the newest is kept");
    }
    host.close().await;
}

#[tokio::test]
async fn fulls_and_incrementals_equal_the_frozen_disks_over_tls() {
    three_backups(Transport::TlsNtlm).await;
}

#[tokio::test]
async fn fulls_and_incrementals_equal_the_frozen_disks_over_sealed_http() {
    three_backups(Transport::SealedHttp).await;
}

#[tokio::test]
async fn a_machine_is_restored_to_another_host_byte_for_byte() {
    let (source, target) = (Lab::with(vec![web()]).await, Lab::with(Vec::new()).await);
    let (from, to) = (source.connect(Transport::TlsBasic).await, target.connect(Transport::TlsNtlm).await);
    let web = source.reference("web");
    let frozen = source.digests("web");
    let snapshot = from.create_snapshot(&web, &request("r")).await.expect("a checkpoint");
    let disks = from.open_disks(&web, &snapshot).await.expect("open");
    let restore = RestoreRequest {
        config: snapshot.config.clone(),
        name: "web-restored".into(),
        datastore: DISK_FOLDER.into(),
        network: Some("LAN".into()),
        connect_network: false,
        keep_identity: false,
        token: "t1".into(),
    };
    let mut made = to.create_target(&restore).await.expect("a target");
    for disk in &disks {
        let mut content = Vec::new();
        read_into(&mut content, disk, None).await;
        made.begin_disk(disk.key()).await.expect("begun");
        for (index, piece) in
            content.chunks(300_000).enumerate().filter(|(_, piece)| piece.iter().any(|byte| *byte != 0))
        {
            made.write((index * 300_000) as u64, Bytes::copy_from_slice(piece)).await.expect("written");
        }
        made.finish_disk().await.expect("finished");
    }
    let machine = made.commit().await.expect("restored");
    from.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    source.assert_clean("web");
    let restored = target.machine("web-restored");
    assert_eq!((restored.id.as_str(), restored.generation), (machine.0.as_str(), 2));
    assert_eq!(target.digests("web-restored"), frozen);
    let info = to.machine(&machine).await.expect("the machine");
    let shape = |config: &domain::machine::MachineConfig| {
        (config.firmware, config.secure_boot, config.processors, config.memory_mib, config.adapters.len())
    };
    assert_eq!(shape(&info.config), shape(&snapshot.config));
    to.power_on(&machine).await.expect("it starts");
    target.assert_clean("web-restored");

    let mut half =
        to.create_target(&RestoreRequest { name: "half".into(), token: "t2".into(), ..restore }).await.expect("begun");
    half.begin_disk(disks[0].key()).await.expect("begun");
    half.write(0, Bytes::from(vec![1; 2_000_000])).await.expect("written");
    drop(half);
    to.remove_half_made("t2").await.expect("removed");
    to.remove_half_made("t2").await.expect("gone already");
    assert_eq!(target.host.machines().len(), 1, "the whole one stays");
}

#[tokio::test]
async fn a_machine_goes_off_and_on() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    for _ in 0..2 {
        assert_eq!(host.shut_down(&web, Duration::from_secs(30)).await.expect("asked"), ShutDown::Off);
        assert!(!lab.machine("web").on);
    }
    host.power_on(&web).await.expect("on");
    assert!(lab.machine("web").on);
    host.power_off(&web).await.expect("off");
    assert!(!lab.machine("web").on);
    lab.assert_clean("web");
}

#[tokio::test]
async fn areas_come_side_by_side_in_their_order_and_with_their_places() {
    let lab = Lab::with(vec![web()]).await;
    let host = lab.connect(Transport::TlsNtlm).await;
    let web = lab.reference("web");
    let frozen = lab.digests("web");
    let snapshot = host.create_snapshot(&web, &request("areas")).await.expect("a checkpoint");
    for (disk, wanted) in host.open_disks(&web, &snapshot).await.expect("open").iter().zip(&frozen) {
        let Areas::Known(areas) = disk.allocated().await.expect("what is allocated") else { panic!("unknown") };
        let pieces: Vec<(u64, Bytes)> = disk.stream_areas(areas.clone()).try_collect().await.expect("bytes");
        assert!(pieces.windows(2).all(|two| two[0].0 + two[0].1.len() as u64 <= two[1].0), "in order");
        let mut copy = vec![0; disk.size_bytes() as usize];
        for (at, piece) in &pieces {
            copy[*at as usize..*at as usize + piece.len()].copy_from_slice(piece);
        }
        assert_eq!(digest(&copy), *wanted);
        assert!(disk.lanes() > 1);
    }
    host.remove_snapshot(&web, &snapshot.reference).await.expect("removed");
    lab.assert_clean("web");
}

#[tokio::test]
async fn the_inventory_says_what_guests_say_of_themselves() {
    let said = |name: &str, data: &str| (name.to_owned(), data.to_owned());
    let mut talks = web();
    talks.guest_says = vec![
        said("FullyQualifiedDomainName", "web.example.org"),
        said("OSName", "Debian GNU/Linux <12> & more"),
        said("NetworkAddressIPv4", "127.0.0.1;192.0.2.7"),
    ];
    let mut lies = MachineSpec { on: true, ..MachineSpec::new("lies") };
    lies.guest_says = vec![said("OSName", &"<INSTANCE>".repeat(5000)), said("NetworkAddressIPv4", "not one;;")];
    let lab = Lab::with(vec![talks, lies, MachineSpec::new("off")]).await;
    let found = lab.connect(Transport::TlsNtlm).await.inventory().await.expect("the inventory").machines;
    let of = |name: &str| {
        let machine = found.iter().find(|machine| machine.config.name == name).expect("the machine");
        (machine.guest_name.as_str(), machine.guest_address.as_deref())
    };
    assert_eq!(of("web"), ("Debian GNU/Linux <12> & more", Some("192.0.2.7")));
    assert_eq!((of("lies"), of("off")), (("", None), ("", None)));
}
