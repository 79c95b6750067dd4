//! The `twinblk` command as an operator and a script meet it: the real program, a daemon's admin
//! surface on a socket, and a shard that answers as it is told.

#[path = "command_line/stage.rs"]
mod stage;

use stage::{Stage, twinblk};

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    for wrong in [
        &["explode"][..],
        &["promote"],
        &["promote", "a/b"],
        &["promote", ""],
        &["wait", "r0"],
        &["wait", "r0", "--for", "rain"],
        &["wait", "r0", "--for", "insync", "--timeout", "5"],
        &["init", "r0"],
        &["init", "r0", "--both-empty", "--from", "alpha"],
        &["status", "--watch", "--exit-status"],
        &["demote", "r0", "--force"],
    ] {
        let run = twinblk(wrong);
        assert_eq!(run.code, 2, "{wrong:?}: {}", run.errors);
        assert!(run.output.is_empty() && !run.errors.is_empty(), "{wrong:?}");
    }
    for fine in [&["--help"][..], &["--version"], &["promote", "--help"], &["disk", "--help"]] {
        let run = twinblk(fine);
        assert_eq!((run.code, run.errors.as_str()), (0, ""), "{fine:?}");
    }
    assert!(twinblk(&["--help"]).output.contains("Exit codes: 0 done"));
}

#[test]
fn status_is_a_table_or_json() {
    let stage = Stage::new();
    let run = stage.run(&["status"]);
    assert_eq!(run.code, 0, "{}", run.errors);
    let expected = "\
RESOURCE  ROLE       DISK      PEER  CONNECTION  REPLICATION  PEER-ROLE  PEER-DISK  OUT-OF-SYNC
r0        Secondary  Outdated  beta  Connecting  Off          -          -          8 MiB

r0: Secondary (keeps a copy and shows it to nobody), Off (nothing flows: the peer is away, or one \
of the copies is not there)
  disk Outdated: a state that once was, known to be older than the peer's. Do: connect to the peer \
and it is brought up to date: `twinblk connect r0`
  connection to beta Connecting: the peer is not reached; the node keeps trying. Do: look at the \
peer's daemon and at the network between
  cannot be promoted now: this copy is outdated
";
    assert_eq!(run.output, expected);
    for json in [&["status", "r0", "--json"][..], &["-o", "json", "status", "r0"]] {
        let run = stage.run(json);
        let body: serde_json::Value = serde_json::from_str(&run.output).expect("JSON");
        assert_eq!(body["schema_version"], 1);
        assert_eq!(body["resources"][0]["peers"][0]["out_of_sync_bytes"], 8 << 20);
        assert_eq!(body["resources"][0]["degraded"], true);
    }
    assert_eq!(stage.run(&["status", "--exit-status"]).code, 7);
    let list = stage.run(&["list"]).output;
    assert!(list.starts_with("RESOURCE  ROLE       SIZE"), "{list}");
}

#[test]
fn each_failure_has_its_exit_code() {
    let stage = Stage::new();
    let done = stage.run(&["demote", "r0"]);
    assert_eq!((done.code, done.output.as_str()), (0, "r0: Demote\n"));
    let unknown = stage.run(&["status", "r9"]);
    assert_eq!(unknown.code, 4);
    let expected = "error: no resource \"r9\" on this node; it has: r0\n";
    assert_eq!(unknown.errors, expected);
    let refused = stage.run(&["promote", "r0"]);
    assert_eq!(refused.code, 5);
    assert_eq!(refused.errors, "error: resource r0: this copy is outdated [not-current]\n");
    let late = stage.run(&["verify", "r0", "--timeout", "20ms"]);
    assert_eq!(late.code, 6, "{}", late.errors);
    let stopping = stage.run(&["resume", "r0"]);
    assert_eq!(stopping.code, 3, "{}", stopping.errors);
    let never = stage.run(&["wait", "r0", "--for", "insync", "--timeout", "1ms"]);
    assert_eq!(never.code, 6);
    assert!(never.errors.contains("did not get there") && never.errors.contains("Connecting"));
    assert_eq!(stage.run(&["wait", "r9", "--for", "insync"]).code, 4);
}

#[test]
fn a_failure_is_json_for_those_who_asked_for_it() {
    let stage = Stage::new();
    let refused = stage.run(&["promote", "r0", "--json"]);
    assert_eq!((refused.code, refused.output.as_str()), (5, ""));
    let body: serde_json::Value = serde_json::from_str(&refused.errors).expect("JSON");
    assert_eq!(body["error"]["kind"], "refused");
    assert_eq!(body["error"]["reason"], "not-current");
}

#[test]
fn a_daemon_that_is_not_there_is_named_with_its_socket() {
    let stage = Stage::without_daemon();
    let run = stage.run(&["status"]);
    assert_eq!(run.code, 3);
    assert!(run.errors.contains("admin.sock: No such file"), "{}", run.errors);
    assert!(run.errors.contains("twinblk serve"), "{}", run.errors);
    let run = stage.run(&["wait", "r0", "--for", "insync", "--timeout", "1ms"]);
    assert_eq!(run.code, 3);
    let run = twinblk(&["status", "--config", "/nonexistent/twinblk.toml"]);
    assert_eq!(run.code, 3);
    assert!(run.errors.contains("/run/twinblk/admin.sock"), "{}", run.errors);
    assert!(run.errors.contains("/nonexistent/twinblk.toml"), "{}", run.errors);
}

#[test]
fn what_cannot_be_taken_back_is_not_done_unasked() {
    let stage = Stage::new();
    for dangerous in [
        &["promote", "--force", "r0"][..],
        &["connect", "--discard-my-data", "r0"],
        &["invalidate", "r0"],
        &["disk", "replace", "r0"],
        &["node", "replace", "r0"],
    ] {
        let run = stage.run(dangerous);
        assert_eq!(run.code, 5, "{dangerous:?}: {}", run.errors);
        assert!(run.errors.contains("repeat with --yes"), "{}", run.errors);
        assert!(run.errors.contains("[not-confirmed]"), "{}", run.errors);
        let consented = [dangerous, &["--yes"]].concat();
        assert_eq!(stage.run(&consented).code, 0, "{consented:?}");
    }
    let forced = stage.run(&["promote", "--force", "r0"]);
    assert!(forced.errors.contains("this copy is outdated"), "{}", forced.errors);
    assert!(forced.errors.contains("split brain"), "{}", forced.errors);
    assert_eq!(stage.orders().last().map(String::as_str), Some("NodeReplace"));
}

#[test]
fn init_is_given_on_the_node_that_has_the_contents() {
    let stage = Stage::new();
    assert_eq!(stage.run(&["init", "r0", "--from", "alpha"]).code, 0);
    assert_eq!(stage.run(&["init", "r0", "--both-empty"]).code, 0);
    assert_eq!(stage.orders(), ["InitFrom", "InitEmpty"]);
    let elsewhere = stage.run(&["init", "r0", "--from", "beta"]);
    assert_eq!(elsewhere.code, 5);
    assert!(elsewhere.errors.contains("There, run: twinblk init r0 --from beta"));
    assert_eq!(stage.run(&["init", "r0", "--from", "gamma"]).code, 1);
}

#[test]
fn events_are_lines() {
    let stage = Stage::new();
    let run = stage.run(&["events", "--now"]);
    assert_eq!(run.code, 0);
    let lines: Vec<&str> = run.output.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].ends_with(" exists r0 Secondary,Outdated beta:Connecting,Off,-"), "{lines:?}");
    assert!(lines[1].ends_with(" exists -"), "{lines:?}");
    let run = stage.run(&["events", "--now", "--json"]);
    let events = run.output.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let events: Vec<serde_json::Value> = events.collect();
    assert_eq!(events[0]["event"], "exists");
    assert_eq!(events[0]["status"]["disk"], "Outdated");
    assert_eq!(events[1]["resource"], "-");
}

#[test]
fn a_reader_that_goes_is_no_fault() {
    let stage = Stage::new();
    for talkative in [&["status", "--watch"][..], &["status"], &["events", "--now"], &["--help"]] {
        let run = stage.run_into_closed_pipe(talkative);
        assert_eq!((run.code, run.errors.as_str()), (0, ""), "{talkative:?}");
    }
}

#[test]
fn config_check_shows_all_mistakes() {
    let stage = Stage::without_daemon();
    let run = stage.run(&["config", "check"]);
    assert_eq!(run.code, 1, "{}{}", run.output, run.errors);
    assert!(run.output.contains("cannot read the secret"), "{}", run.output);
    stage.write_secret();
    let run = stage.run(&["config", "check"]);
    assert_eq!(run.code, 0, "{}{}", run.output, run.errors);
    assert!(run.output.ends_with("ok: 2 nodes, 1 resource; this machine is `alpha`\n"));
    assert!(run.output.contains("cannot find /nonexistent/r0"), "{}", run.output);
    stage.write_config("[node.alpha]\nid = 77\n[link]\nheartbeet = \"1s\"\n");
    let run = stage.run(&["config", "check"]);
    assert_eq!(run.code, 1);
    assert!(run.output.contains("77 is out of range") && run.output.contains("`heartbeat`"));
    assert!(run.output.ends_with("twinblk.toml\n") && !run.output.contains('\u{1b}'));
    let run = stage.run(&["config", "check", "--json"]);
    let body: serde_json::Value = serde_json::from_str(&run.output).expect("JSON");
    assert_eq!(
        (body["usable"].as_bool(), body["problems"][0]["line"].as_u64()),
        (Some(false), Some(1))
    );
}

#[test]
fn a_replica_is_laid_out_once_looked_at_and_compared() {
    let stage = Stage::without_daemon();
    stage.use_disks(64 << 20);
    let run = stage.run(&["create", "r0"]);
    assert_eq!(run.code, 0, "{}", run.errors);
    assert!(run.output.contains("twinblk init r0 --from NODE"), "{}", run.output);
    assert_eq!(stage.run(&["create", "r0", "--node", "beta", "--json"]).code, 0);
    let again = stage.run(&["create", "r0"]);
    assert_eq!(again.code, 5, "{}", again.errors);
    assert!(again.errors.contains("[metadata-exists]"), "{}", again.errors);
    assert_eq!(stage.run(&["create", "r0", "--force"]).code, 0);
    assert_eq!(stage.run(&["create", "r9"]).code, 4);

    let check = stage.run(&["meta", "check", "r0"]);
    assert_eq!((check.code, check.output.as_str()), (0, "r0: the metadata is sound\n"));
    let dump = stage.run(&["meta", "dump", "r0"]);
    assert_eq!(dump.code, 0, "{}", dump.errors);
    let file = stage.write("dump.json", dump.output.as_bytes());
    let unasked = stage.run(&["meta", "restore", "r0", &file]);
    assert_eq!(unasked.code, 5, "{}", unasked.errors);
    let restored = stage.run(&["meta", "restore", "r0", &file, "--yes"]);
    assert_eq!(restored.code, 0, "{}", restored.errors);
    let records = |dump: &str| {
        let mut value: serde_json::Value = serde_json::from_str(dump).expect("JSON");
        // The log is laid out afresh, with higher numbers than any that were used.
        value["log"]["next_transaction"].take();
        value
    };
    let restored = stage.run(&["meta", "dump", "r0"]);
    assert_eq!(records(&restored.output), records(&dump.output));
    let nonsense = stage.write("nonsense.json", b"{\"a\": 1}");
    let refused = stage.run(&["meta", "restore", "r0", &nonsense, "--yes"]);
    assert_eq!(refused.code, 5, "{}", refused.errors);

    let (alpha, beta) = (stage.disk("alpha"), stage.disk("beta"));
    let equal = stage.run(&["compare", &alpha, &beta]);
    assert_eq!(equal.code, 0, "{}{}", equal.output, equal.errors);
    stage.spoil("beta", 5 * 4096 + 7);
    let differ = stage.run(&["compare", &alpha, &beta]);
    assert_eq!(differ.code, 1, "{}{}", differ.output, differ.errors);
    assert!(differ.output.contains("at byte 20480: 4096 bytes"), "{}", differ.output);
    assert_eq!(differ.errors, "");
    let missing = stage.run(&["compare", &alpha, "/nonexistent/disk"]);
    assert_eq!(missing.code, 1);
    assert!(missing.errors.contains("does not exist"), "{}", missing.errors);
}

#[test]
fn contents_are_not_overwritten_unasked() {
    let stage = Stage::without_daemon();
    stage.use_disks(64 << 20);
    stage.make_xfs_of("alpha");
    let refused = stage.run(&["create", "r0"]);
    assert_eq!(refused.code, 5, "{}", refused.errors);
    assert!(refused.errors.contains("holds an XFS file system"), "{}", refused.errors);
    assert!(refused.errors.contains("[disk-not-empty]"), "{}", refused.errors);
    assert_eq!(stage.run(&["create", "r0", "--force"]).code, 0);
}

#[test]
fn a_disk_that_is_held_is_not_taken() {
    let stage = Stage::without_daemon();
    stage.use_disks(64 << 20);
    let held = std::fs::File::open(stage.disk("alpha")).expect("the disk");
    held.lock().expect("nobody else has it");
    let refused = stage.run(&["create", "r0", "--force"]);
    assert_eq!(refused.code, 5, "{}", refused.errors);
    assert!(refused.errors.contains("[disk-in-use]"), "{}", refused.errors);
}

#[test]
fn help_says_when_a_command_is_refused() {
    for command in [&["promote"][..], &["disconnect"], &["invalidate"], &["disk", "detach"]] {
        let help = twinblk(&[&["help"], command].concat());
        assert_eq!(help.code, 0, "{}", help.errors);
        assert!(help.output.contains("Refused"), "{command:?}: {}", help.output);
    }
}

#[test]
fn shells_can_complete() {
    let script = twinblk(&["completion", "bash"]);
    assert!(script.code == 0 && script.output.contains("pause-sync"), "{}", script.errors);
    assert_eq!(twinblk(&["completion", "abacus"]).code, 2);
}

#[test]
fn the_manual_is_in_the_program() {
    let list = twinblk(&["manual"]);
    assert!(list.code == 0 && list.output.contains("operating"), "{}", list.output);
    let chapter = twinblk(&["manual", "failover"]);
    assert!(chapter.code == 0 && chapter.output.starts_with("# Failover"), "{}", chapter.output);
    assert_eq!(twinblk(&["manual", "cooking"]).code, 2);
}
