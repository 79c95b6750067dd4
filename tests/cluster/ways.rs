//! Owns the less trodden ways: addresses, second paths, hashes, congestion, a new machine. Must
//! never be content with a daemon that merely stays alive.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};

use crate::config::{NAMES, RESOURCE, Wish};
use crate::load::{Load, Mix, Session};
use crate::proxy::Proxy;
use crate::stage::{Cluster, eventually};
use crate::stamp::{BLOCK, content};

const QUICK: &str = "[link]\nheartbeat = \"100ms\"\npeer_timeout = \"1s\"\n\
                     progress_timeout = \"20s\"\nconnect_retry_max = \"200ms\"\n";

/// Lays out, starts and brings in sync a cluster whose files have been changed.
fn bring_up(cluster: &mut Cluster) {
    for node in [0, 1] {
        cluster.done(node, &["create", RESOURCE]);
        cluster.start(node);
    }
    cluster.wait_connected(0);
    cluster.done(0, &["init", RESOURCE, "--from", NAMES[0]]);
    cluster.wait_in_sync(0);
    cluster.promote(0);
}

fn load(cluster: &Cluster, seed: u64) -> Load {
    let blocks = cluster.status(0).device_bytes / BLOCK as u64;
    let load = Load::start(&cluster.site.socket(0), blocks, Mix { seed, depth: 16, zeroes: true });
    load.wait_for(50);
    load
}

fn judge(cluster: &Cluster, load: &Load) {
    cluster.wait_in_sync(0);
    load.pause();
    load.judge(&cluster.site.socket(0));
    cluster.assert_identical();
    load.resume();
}

/// The local ends of the established TCP connections of a daemon, as the kernel lists them.
fn connections(family: &str) -> Vec<String> {
    let listed = fs::read_to_string(format!("/proc/net/{family}")).expect("the kernel's list");
    let fields = listed.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let established = fields.filter(|fields| fields.get(3) == Some(&"01"));
    established.map(|fields| fields[1].to_owned()).collect()
}

fn port_of(address: &SocketAddr) -> String {
    format!(":{:04X}", address.port())
}

/// The link over IPv6.
#[test]
fn a_link_over_ipv6_replicates_and_resyncs() {
    let mut cluster = Cluster::bare(Wish { sections: QUICK.to_owned(), ..Wish::new(16) });
    for reader in [0, 1] {
        for node in [0, 1] {
            let old = format!("address = \"{}\"", cluster.site.link[node].ip());
            cluster.site.edit_config(reader, &old, "address = \"::1\"");
        }
    }
    bring_up(&mut cluster);
    let ports = cluster.site.link.map(|address| port_of(&SocketAddr::V4(address)));
    let over_six = connections("tcp6");
    let through = |port: &String| over_six.iter().any(|end| end.ends_with(port.as_str()));
    assert!(ports.iter().any(through), "{ports:?} in {over_six:?}");
    let load = load(&cluster, 31);
    cluster.kill(1);
    cluster.wait_away(0);
    load.wait_for(200);
    cluster.start(1);
    judge(&cluster, &load);
}

/// Two paths to the peer: when the one in use is cut, the other one takes over, and clients notice
/// nothing but time.
#[test]
fn a_second_path_takes_over() {
    let mut cluster = Cluster::bare(Wish { sections: QUICK.to_owned(), ..Wish::new(16) });
    // The first path leads through a proxy, at an address of its own and the node's port.
    let faces = [0, 1].map(|node| {
        let proxy = cluster.site.proxy[node];
        SocketAddrV4::new(*proxy.ip(), cluster.site.link[node].port())
    });
    let proxy = Proxy::start(faces, cluster.site.link);
    for reader in [0, 1] {
        let other = cluster.site.link[1 - reader].ip();
        let (old, face) = (format!("address = \"{other}\""), faces[1 - reader].ip());
        let new = format!("address = [\"{face}\", \"{other}\"]");
        cluster.site.edit_config(reader, &old, &new);
    }
    bring_up(&mut cluster);
    let load = load(&cluster, 32);
    let through = |proxy: &Proxy| proxy.passed(0) + proxy.passed(1);
    for round in 0..4 {
        // Whichever path is in use, the one through the proxy is gone now; if it was used, that
        // is a loss of the link.
        let before = through(&proxy);
        proxy.cut();
        cluster.wait_in_sync(0);
        load.wait_for(100);
        let during = through(&proxy);
        load.wait_for(100);
        assert_eq!(through(&proxy), during, "round {round}: nothing passes what is cut");
        assert!(round > 0 || before > 0, "the first path was in use");
        proxy.heal();
        judge(&cluster, &load);
    }
    load.assert_kept_server();
}

/// A resync with hashes sends what differs, and little else.
#[test]
fn a_checksum_resync_sends_what_differs() {
    let wish = Wish {
        proxied: true,
        sections: format!("{QUICK}[resource.{RESOURCE}.resync]\nchecksum = true\n"),
        ..Wish::new(64)
    };
    let mut cluster = Cluster::in_sync(wish);
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    for chunk in 0..32 {
        session.write(chunk * 256, &content(chunk * 256, 256, 1)).expect("written");
    }
    session.flush().expect("flushed");
    cluster.wait_in_sync(0);
    cluster.stop(1);
    cluster.wait_away(0);
    // Behind the daemon's back: what hashes find, and only they.
    crate::stage::spoil(&cluster.site.disk(1), 4096 * 4096 + 5, b"rot");
    session.write(77, &content(77, 3, 9)).expect("written");
    cluster.start(1);
    cluster.wait_in_sync(0);
    let passed = || cluster.proxy.as_ref().expect("proxied").passed(1);
    let before = passed();
    cluster.done(1, &["invalidate", RESOURCE, "--yes"]);
    cluster.wait_in_sync(0);
    let sent = passed() - before;
    assert_eq!(cluster.peer(0).last_resync_bytes, cluster.status(0).device_bytes, "all of it");
    assert!(sent < 8 << 20, "{sent} bytes for 32 MiB of data of which one block differs");
    cluster.assert_identical();
}

/// Under A with `on_congestion = "bitmap"`: clients never wait for a slow link, and the peer has
/// all in the end.
#[test]
fn a_congested_link_is_left_behind_and_caught_up_with() {
    let wish = Wish {
        protocol: "A",
        proxied: true,
        sections: QUICK.to_owned(),
        resource_lines: "on_congestion = \"bitmap\"\ncongestion_bytes = \"1MiB\"\n".to_owned(),
        ..Wish::new(64)
    };
    let cluster = Cluster::in_sync(wish);
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    let proxy = cluster.proxy.as_ref().expect("proxied");
    for round in 1..4 {
        proxy.delay_towards(1, std::time::Duration::from_millis(300));
        let mut at = 0;
        eventually("a primary that goes ahead", || {
            for _ in 0..16 {
                session.write(at % 8192, &content(at % 8192, 64, round)).expect("written");
                at += 64;
            }
            let state = cluster.peer(0).replication;
            if state == "Ahead" { Ok(()) } else { Err(state) }
        });
        proxy.heal();
        cluster.wait_in_sync(0);
        session.flush().expect("flushed");
        cluster.wait(0, "all stable there", |seen| seen.peers[0].unstable_writes == 0);
        cluster.assert_identical();
    }
}

/// A machine is gone with its disk; a new one takes its place under a primary that serves on.
#[test]
fn a_dead_machine_is_replaced_under_load() {
    let mut cluster = Cluster::in_sync(Wish { sections: QUICK.to_owned(), ..Wish::new(16) });
    let load = load(&cluster, 33);
    cluster.kill(1);
    cluster.wait_away(0);
    load.wait_for(100);
    fs::remove_file(cluster.site.metadata(1)).expect("it was there");
    cluster.site.make_disk(1, cluster.site.wish.disk_bytes[1]);
    cluster.done(0, &["node", "replace", RESOURCE, "--yes"]);
    cluster.done(1, &["create", RESOURCE]);
    cluster.start(1);
    judge(&cluster, &load);
    // All of it, but for what clients wrote meanwhile.
    let copied = cluster.peer(0).last_resync_bytes;
    assert!(copied > cluster.status(0).device_bytes / 2, "{copied} is no full copy");
    load.assert_kept_server();
}
