//! Mistakes in the file, each with what an operator is shown; and that no text at all panics.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::format::frame::Protocol;
use crate::units::Nanos;

const GOOD: &str = r#"secret_file = "/etc/twinblk/secret"

[node.alpha]
id = 0
address = "10.0.0.1"

[node.beta]
id = 1
address = ["10.0.0.2", "2001:db8::2", "192.0.2.7"]

[resource.r0]
protocol = "C"
on.alpha = { disk = "/dev/vg0/r0" }
on.beta = { disk = "/dev/vg0/r0", metadata = "/dev/vg0/r0-meta" }
"#;

fn file(text: &str) -> Result<Config, ConfigErrors> {
    parse(Path::new("twinblk.toml"), text)
}

/// Each problem as `line: what; remedy`.
fn problems(text: &str) -> Vec<String> {
    let report = match file(text) {
        Ok(config) => config.warnings,
        Err(ConfigErrors::Mistakes(report)) => *report,
        Err(other) => panic!("{other}"),
    };
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    let show = |it: &Problem| format!("{}: {}; {}", line(it.span.start), it.what, it.remedy);
    report.problems.iter().map(show).collect()
}

fn edited(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the example");
    GOOD.replacen(from, to, 1)
}

#[test]
fn a_short_file_is_enough_and_the_rest_has_defaults() {
    let config = file(GOOD).expect("a good file");
    assert_eq!(config.warnings.problems, []);
    assert_eq!(config.link, LinkTimes::default());
    assert_eq!(config.tuning, Tuning::default());
    let beta = config.node_named("beta").expect("beta");
    assert_eq!(beta.addresses.len(), 3);
    assert_eq!((beta.id, beta.link_port), (NodeId(1), 7790));
    assert_eq!(beta.nbd_listen, ["127.0.0.1:10809".parse().expect("an address")]);
    assert_eq!(beta.admin_socket, Path::new("/run/twinblk/admin.sock"));
    let r0 = config.resource("r0").expect("r0");
    assert_eq!(beta.nbd_socket(&r0.name), Path::new("/run/twinblk/r0.nbd"));
    assert_eq!((r0.protocol, r0.on_peer_loss), (Protocol::C, OnPeerLoss::Continue));
    assert_eq!(r0.mine(NodeId(0)).expect("alpha's").metadata, Metadata::Internal);
    let theirs = r0.theirs(NodeId(0)).expect("beta's");
    assert_eq!(theirs.metadata, Metadata::At("/dev/vg0/r0-meta".into()));
    assert_eq!(r0.theirs(NodeId(7)), None);
    assert_eq!(config.resources_on(NodeId(0)).count(), 1);
}

#[test]
fn every_setting_can_be_written() {
    let text = r#"
run_directory = "/run/a"
[tuning]
shards = 2
engine = "portable"
poll_us = 0
client_buffers = "128MiB"
peer_buffers = "16MiB"
background_buffers = "8MiB"
[link]
heartbeat = "100ms"
peer_timeout = "1s"
progress_timeout = "2min"
connect_retry_max = "1s"
[node.a]
id = 3
address = "127.0.0.1"
link_port = 7001
nbd_listen = []
[node.b]
id = 4
address = "127.0.0.1"
link_port = 7002
nbd_listen = ["127.0.0.1:7003", "[::1]:7003"]
run_directory = "/run/b"
admin_socket = "/run/b/control"
[resource.r0]
protocol = "A"
on_peer_loss = "suspend"
on_congestion = "bitmap"
congestion_bytes = "12MiB"
on_io_error = "detach"
log_extents = 0x100
peer_slots = 1
shard = 1
[resource.r0.resync]
rate_max = "100MiB/s"
rate_min = "1MiB/s"
checksum = true
[resource.r0.on.a]
disk = "/a/disk"
metadata = "internal"
[resource.r0.on.b]
disk = "/b/disk"
"#;
    assert_eq!(problems(text), [""; 0]);
    let config = file(text).expect("a good file");
    assert_eq!(config.tuning.shards, Some(2));
    assert_eq!(config.link.progress_timeout, Nanos::from_millis(120_000));
    let (a, b) = (&config.nodes[0], &config.nodes[1]);
    assert_eq!(a.admin_socket, Path::new("/run/a/admin.sock"));
    assert_eq!(b.admin_socket, Path::new("/run/b/control"));
    assert!(a.nbd_listen.is_empty());
    let r0 = &config.resources[0];
    let resync = ResyncOptions { rate_max: Some(100 << 20), rate_min: 1 << 20, checksum: true };
    assert_eq!(r0.resync, resync);
    assert_eq!((r0.log_extents, r0.peer_slots, r0.shard), (256, 1, Some(1)));
    assert_eq!(r0.on_congestion, OnCongestion::Bitmap);
}

#[test]
fn the_manual_shows_files_that_can_be_used() {
    let chapter = include_str!("../manual/configuration.md");
    let examples: Vec<&str> = chapter.split("```toml\n").skip(1).collect();
    assert_eq!(examples.len(), 2);
    let example = |at: usize| examples[at].split("```").next().expect("the text before");
    assert_eq!(problems(example(0)), [""; 0]);
    // All that the second one spells out is the default, but for the place of the metadata.
    let (short, long) = (file(example(0)).expect("good"), file(example(1)).expect("good"));
    assert_eq!(long.warnings.problems, []);
    assert_eq!((long.tuning, long.link), (short.tuning, short.link));
    assert_eq!(long.nodes[0], short.nodes[0]);
    assert_eq!(long.secret_file, short.secret_file);
    let defaults =
        Resource { replicas: long.resources[0].replicas.clone(), ..short.resources[0].clone() };
    assert_eq!(long.resources[0], defaults);
}

#[test]
fn a_mistake_is_shown_with_its_line_a_caret_and_a_remedy() {
    let text = edited("protocol = \"C\"", "protocl = \"C\"");
    let shown = file(&text).expect_err("a mistake").to_string();
    let expected = "\
error: resource `r0` has no setting `protocl`
  --> twinblk.toml:12:1
   |
12 | protocl = \"C\"
   | ^^^^^^^
   |
   = help: did you mean `protocol`?";
    assert_eq!(shown, expected);

    let shown = file(&edited("id = 1", "id = 0")).expect_err("a mistake").to_string();
    let expected = "\
error: nodes `alpha` and `beta` have the same id 0
 --> twinblk.toml:8:6
  |
4 | id = 0
  |      - also here
...
8 | id = 0
  |      ^
  |
  = help: give each node its own number from 0 to 31";
    assert_eq!(shown, expected);
}

#[test]
fn all_mistakes_of_a_file_are_shown_in_one_run() {
    let text = GOOD
        .replace("id = 1", "id = \"1\"")
        .replace("address = \"10.0.0.1\"", "adress = \"10.0.0.1\"")
        .replace("protocol = \"C\"", "protocol = \"D\"\nlog_extents = 3\n[link]\nheartbeat = 3\n")
        .replace("on.alpha", "[resource.r0.on]\nalpha")
        .replace("on.beta", "beta");
    let expected = [
        "3: node `alpha` has no `address`; add a line such as `address = \"10.0.0.1\"`",
        "5: node `alpha` has no setting `adress`; did you mean `address`?",
        "8: `id` of node `beta`: this is a text; write a whole number from 0 to 31",
        "12: `protocol` of resource `r0`: \"D\" is not a choice; write \"A\" or \"B\" or \"C\"",
        "13: `log_extents` of resource `r0`: 3 is out of range; \
         choose a value from 16 to 16384",
        "15: `heartbeat` of `[link]`: this is a whole number; \
         write a time with its unit in quotes, such as \"500ms\"",
    ];
    assert_eq!(problems(&text), expected);
}

/// An edit of the good file, and what must be shown for it.
const MISTAKES: &[(&str, &str, &str)] = &[
    // Values.
    (
        "\"10.0.0.1\"",
        "\"10.0.0.1:7790\"",
        "5: `address` of node `alpha`: \"10.0.0.1:7790\" has a \
      port in it; write only the address; the port goes to `link_port`",
    ),
    (
        "\"10.0.0.1\"",
        "\"10.0.0.256\"",
        "5: `address` of node `alpha`: \"10.0.0.256\" is no IP address; write one, for example \"10.0.0.1\" or \"2001:db8::1\"; names \
      are not taken, since whoever looks them up may be down when a node must find the other",
    ),
    (
        "\"10.0.0.1\"",
        "\"0.0.0.0\"",
        "5: `address` of node `alpha`: 0.0.0.0 is not the address of \
      one machine; write the address the other node reaches it at",
    ),
    (
        "\"10.0.0.1\"",
        "[]",
        "5: `address` of node `alpha`: the list is empty; write an address such \
      as \"10.0.0.1\", or a list of them",
    ),
    (
        "\"/dev/vg0/r0\"",
        "\"vg0/r0\"",
        "13: `disk` of resource `r0` on node `alpha`: \"vg0/r0\" is \
      not an absolute path; write the whole path, beginning with `/`",
    ),
    (
        "\"/dev/vg0/r0-meta\"",
        "\"intern\"",
        "14: `metadata` of resource `r0` on node `beta`: \
      \"intern\" is neither \"internal\" nor an absolute path; write \"internal\", or the path of \
      a file or device for the metadata alone",
    ),
    (
        "id = 1",
        "id = 32",
        "8: `id` of node `beta`: 32 is out of range; choose a value from 0 to 31",
    ),
    (
        "id = 1",
        "id = -1",
        "8: `id` of node `beta`: -1 is out of range; write a whole number from 0 \
      to 31",
    ),
    (
        "id = 1",
        "id = 1\nnbd_listen = \"0.0.0.0\"",
        "9: `nbd_listen` of node `beta`: \"0.0.0.0\" is \
      not an address with a port; write an IP address and a port, such as \"127.0.0.1:10809\" or \
      \"[::1]:10809\"",
    ),
    (
        "protocol = \"C\"",
        "on_io_error = \"pass_on\"",
        "12: `on_io_error` of resource `r0`: \
      \"pass_on\" is not a choice; write \"detach\"",
    ),
    (
        "protocol = \"C\"",
        "resync = { rate_max = \"0MiB/s\" }",
        "12: `rate_max` of `resync` of \
      resource `r0`: a rate of zero never gets anywhere; write a rate with its unit in quotes, \
      such as \"10MiB/s\"",
    ),
    (
        "protocol = \"C\"",
        "resync = { rate_max = \"1MiB/s\", rate_min = \"2MiB/s\" }",
        "12: resource \
      `r0`: `rate_min` is above `rate_max`; lower `rate_min`, or raise `rate_max`",
    ),
    (
        "protocol = \"C\"",
        "congestion_bytes = \"1.5GiB\"",
        "12: `congestion_bytes` of resource `r0`: \
      \"1.5GiB\" is not a size such as \"64MiB\" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB); write a \
      size with its unit in quotes, such as \"64MiB\"",
    ),
    // Names.
    (
        "[resource.r0]",
        "[resource.\"../r0\"]",
        "11: \"../r0\" cannot name a resource: a name has \
      only letters, digits, `_`, `.` and `-`, not '/'; choose another name",
    ),
    (
        "[resource.r0]",
        "[resource.\"\"]",
        "11: \"\" cannot name a resource: a name cannot be empty; \
      choose another name",
    ),
    // Sections.
    ("[node.alpha]", "[nodes.alpha]", "3: the file has no setting `nodes`; did you mean `node`?"),
    (
        "protocol = \"C\"",
        "resync = 3",
        "12: `resync` of resource `r0` is a whole number and should \
      be a section; write it as `[...]` with settings",
    ),
    (
        "on.beta",
        "on.betta",
        "14: resource `r0` is on node `betta`, which does not exist; did you \
      mean `beta`?",
    ),
    (
        "protocol = \"C\"",
        "on.gamma = { disk = \"/d\" }",
        "12: resource `r0` is on more than two \
      nodes; a third copy is refused for now, as its rules are not built yet: keep two",
    ),
    (
        "on.alpha = { disk = \"/dev/vg0/r0\" }\n",
        "",
        "11: resource `r0` is on one node and needs \
      two; add `[resource.r0.on.NODE]` with `disk` for both nodes",
    ),
    // Clashes.
    (
        "[\"10.0.0.2\"",
        "[\"10.0.0.1\"",
        "9: nodes `alpha` and `beta` are both at 10.0.0.1, link port \
      7790; correct the address, or on one machine give each a `link_port`",
    ),
    (
        "\"/dev/vg0/r0-meta\"",
        "\"/dev//vg0/./r0\"",
        "14: on node `beta`, /dev/vg0/r0 is both the \
      disk of resource `r0` and the metadata of resource `r0`; give each its own file or device",
    ),
    (
        "secret_file",
        "tuning.shards = 1\nresource.r1.shard = 1\nsecret_file",
        "2: resource `r1` \
      wants shard 1 and there are 1; choose 0 to 0, or raise `shards` in [tuning]",
    ),
    (
        "secret_file",
        "link = { heartbeat = \"3s\" }\nsecret_file",
        "1: `heartbeat` is not shorter \
      than `peer_timeout`: every session would end at once; let `peer_timeout` be at least three \
      times `heartbeat`",
    ),
    (
        "id = 1",
        "id = 1\nlink_port = 8000\nnbd_listen = \"10.0.0.2:8000\"",
        "10: node `beta` uses \
      port 8000 for NBD and link; choose another port for one of them",
    ),
    (
        "id = 1",
        "id = 1\nnbd_listen = [\"127.0.0.1:5\", \"127.0.0.1:5\"]",
        "9: node `beta` listens \
      for NBD at 127.0.0.1:5 twice; remove one",
    ),
    // Warnings.
    (
        "id = 1",
        "id = 1\nnbd_listen = \"0.0.0.0:10809\"",
        "9: node `beta` offers NBD to the network \
      at 0.0.0.0:10809; NBD here has neither password nor encryption: whoever reaches this address \
      reads and writes the disk. Keep it on a network of its own",
    ),
    (
        "protocol = \"C\"",
        "on_congestion = \"bitmap\"",
        "12: `on_congestion` of resource `r0` acts \
      under protocol A only; under B and C the client waits for the peer anyway: remove the line",
    ),
    (
        "protocol = \"C\"",
        "protocol = \"A\"\ncongestion_bytes = \"32MiB\"",
        "13: `congestion_bytes` of resource `r0` acts up to 16 MiB, a quarter of `client_buffers`; lower it, or \
         raise `client_buffers` in [tuning]",
    ),
    (
        "on.beta = { disk = \"/dev/vg0/r0\",",
        "on.beta = { disk = \"/dev/sdb\",",
        "14: /dev/sdb may name another disk after the next boot, and with `metadata` of its own nothing on the \
         disk tells; use a path of /dev/disk/by-id, /dev/disk/by-partuuid or LVM",
    ),
    (
        "[resource.r0]",
        "[node.gamma]\nid = 5\naddress = \"gamma\"\n[resource.r0]",
        "11: node `gamma` \
      carries no resource; name it in a resource as `on.NODE`, or remove the section",
    ),
    (
        "secret_file",
        "link = { peer_timeout = \"1s\" }\nsecret_file",
        "1: `peer_timeout` is less \
      than three times `heartbeat`: one lost packet may end a session; let `peer_timeout` be at \
      least three times `heartbeat`",
    ),
    // Broken text: what only follows from it is not shown.
    (
        "id = 0",
        "id = ",
        "4: string values must be quoted, expected literal string; see \
      https://toml.io for how to write it",
    ),
    (
        "[node.alpha]",
        "[node.alpha",
        "3: unclosed table, expected `]`; see https://toml.io for how \
      to write it",
    ),
    ("id = 0", "id = 0\nid = 0", "5: duplicate key; see https://toml.io for how to write it"),
];

#[test]
fn each_mistake_has_its_words() {
    for (from, to, expected) in MISTAKES {
        let shown = problems(&edited(from, to));
        assert!(shown.iter().any(|it| it == expected), "{to:?} shows:\n{}", shown.join("\n"));
    }
}

#[test]
fn nodes_on_one_machine_need_their_own_sockets() {
    let text = GOOD
        .replace("\"10.0.0.1\"", "\"127.0.0.1\"")
        .replace("id = 1", "id = 1\nlink_port = 7791")
        .replace("\"10.0.0.2\"", "\"127.0.0.1\"");
    let expected = [
        "7: nodes `alpha` and `beta` share one machine and one admin socket; \
         give each node its own `run_directory`",
        "7: nodes `alpha` and `beta` share one machine and NBD address 127.0.0.1:10809; \
         give each node its own `nbd_listen`",
    ];
    assert_eq!(problems(&text), expected);
}

#[test]
fn socket_paths_fit_the_kernel() {
    let long = format!("run_directory = \"/{}\"\nsecret_file", "d".repeat(100));
    let shown = problems(&edited("secret_file", &long));
    assert!(shown[0].contains("longer than 107 bytes"), "{shown:?}");
}

#[test]
fn the_local_node_is_named_or_called_like_the_host() {
    let config = file(GOOD).expect("a good file");
    let name = |wanted, host| config.local_on(wanted, host).map(|node| node.name.to_string());
    assert_eq!(name(Some("beta"), "alpha"), Ok("beta".to_owned()));
    assert_eq!(name(None, "alpha"), Ok("alpha".to_owned()));
    assert_eq!(name(None, "alpha.example.org"), Ok("alpha".to_owned()));
    let unknown = name(None, "gamma").expect_err("not a node").to_string();
    assert_eq!(
        unknown,
        "no node is named like this host, \"gamma\"; nodes in twinblk.toml: alpha, beta.\n\
         Say which one this machine is with --node NAME."
    );
    assert!(name(Some("gamma"), "alpha").is_err());
}

#[test]
fn files_that_are_no_text_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("twinblk.toml");
    let missing = load(&path).expect_err("no file").to_string();
    assert!(missing.contains("No such file") && missing.contains("--config"), "{missing}");
    std::fs::write(&path, b"\xff\xfe").expect("write");
    assert!(matches!(load(&path), Err(ConfigErrors::Unreadable { .. })));
    assert!(matches!(load(Path::new("/dev/zero")), Err(ConfigErrors::Unreadable { .. })));
}

proptest! {
    #[test]
    fn no_text_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = file(&text) {
            drop(error.to_string());
        }
    }

    #[test]
    fn no_mutation_of_a_good_file_panics(
        cuts in proptest::collection::vec((0..GOOD.len(), 0..40_usize, ".{0,12}"), 1..6),
    ) {
        let mut text = GOOD.to_owned();
        for (at, length, with) in cuts {
            let start = (at.min(text.len())..=text.len()).find(|at| text.is_char_boundary(*at));
            let start = start.expect("the end is a boundary");
            let end = (start + length).min(text.len());
            let end = (end..=text.len()).find(|at| text.is_char_boundary(*at));
            text.replace_range(start..end.expect("the end is a boundary"), &with);
        }
        match file(&text) {
            Ok(config) => drop(config.warnings.render(true)),
            Err(error) => drop(error.to_string()),
        }
    }
}
