//! Bundles on trial, and every moment at which a guest's scripts can be cut off.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod world;

use world::{KILLED, World, bundle, names, said};

const OLD: &str = "services: {http: {}}";
const NEW: &str = "services: {http: {image: new}}";
/// Bundles that do not get healthy, and what is said then.
const BAD: [(&str, &str); 3] = [
    ("ends", "stack web is not healthy:\nbad http: Exited (1) 1 second ago"),
    ("sick", "stack web is not healthy:\nwait http: Up 3 seconds (unhealthy)"),
    ("full", "no space left on device"),
];

#[test]
fn a_bundle_that_is_not_healthy_goes_and_the_one_before_comes_back() {
    for (bad, why) in BAD {
        let (world, old) = World::with(OLD);
        assert!(world.deploy(bad, 0).1.text().starts_with("trial "));
        world.runs_still(&old);
        let output = world.stack("try", 0);
        assert_eq!(output.status, 1, "{bad}");
        assert!(said(&output).contains(why), "{}", said(&output));
        let back = world.stack("settle", 0);
        let wanted = format!("stack web: bundle {} was not healthy; bundle {old} is back, and healthy\n", bundle(bad));
        assert_eq!(back.text(), wanted);
        world.runs(&old, bad);
    }
}

#[test]
fn a_first_bundle_that_is_not_healthy_leaves_nothing() {
    for (bad, _) in BAD {
        let world = World::new();
        world.write("needed", "db||running|Up\n", 0o644);
        assert!(world.deploy(bad, 0).1.text().starts_with("trial "));
        assert_eq!(world.trial(0).status, 1);
        assert!(!world.path("containers").exists());
        assert!(!world.path("stacks/web").exists(), "{bad}");
        assert!(!world.path("units/hearth-stack-web.service").exists());
    }
}

#[test]
fn what_cannot_be_tried_is_refused_before_anything_is_touched() {
    let refused = |prepare: &dyn Fn(&World), compose: &str, why: &str| {
        let (world, old) = World::with(OLD);
        prepare(&world);
        let (_, output) = world.deploy(compose, 0);
        assert_ne!(output.status, 0);
        assert!(said(&output).contains(why), "{}", said(&output));
        world.runs(&old, compose);
    };
    refused(&|_| (), "broken", "services.http must be a mapping");
    let no_room = "#!/bin/sh\nprintf 'Avail\\n5242880\\n'\n";
    let why = "there are 5 MiB free at ";
    refused(&|world| world.write("fake/df", no_room, 0o755), NEW, why);
    let why = "/mnt/media is not mounted, so stack web does not start";
    refused(&|world| world.write("mountinfo", "1 2 0:3 / /mnt/medias rw - ext4 x rw\n", 0o644), NEW, why);
    let why = "stack web needs stack photos, which is not healthy:\ndb||running|Up (unhealthy)";
    let sick = |world: &World| {
        world.write("needed", "db||running|Up (unhealthy)\n", 0o644);
        // A minute passes at once.
        world.write("fake/date", "#!/bin/sh\nread -r n <\"$0.n\"; echo $((n + 40)) | tee \"$0.n\"\n", 0o755);
        world.write("fake/date.n", "0\n", 0o644);
    };
    refused(&sick, NEW, why);
    // A tar that can't be unpacked, as on a full disk.
    refused(&|world| world.write("fake/tar", "#!/bin/sh\ncat >/dev/null\nexit 2\n", 0o755), NEW, "");
}

#[test]
fn a_container_is_never_started_on_a_folder_that_is_not_mounted() {
    let (world, _) = World::with(OLD);
    world.write("mountinfo", "1 2 0:3 / / rw - ext4 x rw\n", 0o644);
    world.write("asked", "", 0o644);
    let output = world.reboot();
    assert_eq!(output.status, 1);
    assert_eq!(said(&output), "/mnt/media is not mounted, so stack web does not start\n");
    assert!(!world.read("asked").contains(" up "), "{}", world.read("asked"));
}

#[test]
fn a_deployment_killed_before_any_command_touches_nothing_and_the_next_one_finishes() {
    let mut kill = 0;
    let (world, old) = World::with(OLD);
    world.save();
    loop {
        kill += 1;
        world.restore();
        let (new, output) = world.deploy(NEW, kill);
        if output.status != KILLED {
            assert_eq!(output.status, 0, "{}", said(&output));
            break;
        }
        world.runs_still(&old);
        let (_, again) = world.deploy(NEW, 0);
        assert_eq!(again.status, 0, "{kill}: {}", said(&again));
        assert_eq!(world.trial(0).status, 0, "{kill}");
        world.runs(&new, &format!("killed before command {kill}"));
    }
    println!("deploy.sh: killed before each of {} commands", kill - 1);
    assert!(kill > 40, "{kill}");
}

#[test]
fn a_trial_killed_before_any_command_is_settled_by_its_unit_or_at_boot() {
    let (world, old) = World::with(OLD);
    let (new, _) = world.deploy(NEW, 0);
    world.save();
    for boot in [false, true] {
        let (mut kill, mut kept) = (0, 0);
        loop {
            kill += 1;
            world.restore();
            let output = world.stack("try", kill);
            if output.status != KILLED {
                assert_eq!(output.status, 0, "{}", said(&output));
                break;
            }
            let settled = if boot { world.reboot() } else { world.stack("settle", 0) };
            assert_eq!(settled.status, 0, "{kill}: {}", said(&settled));
            let now = world.read("runs");
            assert!([&old, &new].contains(&&now), "{kill}");
            kept += u32::from(now == new);
            world.runs(&now, &format!("killed before command {kill}"));
            if kill % 8 != 0 {
                continue;
            }
            // What was kept needs no second trial.
            match world.deploy(NEW, 0).1.text().as_str() {
                "current\n" => assert_eq!(now, new),
                _ => assert_eq!(world.trial(0).status, 0),
            }
            world.runs(&new, &format!("killed before command {kill}, then finished"));
        }
        println!("try: killed before each of {} commands, {kept} of them after the new bundle was healthy", kill - 1);
        assert!(kill > 30 && kept > 0 && kept < kill - 1, "{kill} {kept}");
    }
}

#[test]
fn a_way_back_that_is_cut_off_is_gone_at_boot() {
    let mut kill = 0;
    let (world, old) = World::with(OLD);
    world.deploy("ends", 0);
    assert_eq!(world.stack("try", 0).status, 1);
    world.save();
    loop {
        kill += 1;
        world.restore();
        let output = world.stack("settle", kill);
        if output.status != KILLED {
            assert_eq!(output.status, 0, "{}", said(&output));
            break;
        }
        let up = world.reboot();
        assert_eq!(up.status, 0, "{kill}: {}", said(&up));
        world.runs(&old, &format!("killed before command {kill}"));
    }
    println!("settle: killed before each of {} commands", kill - 1);
    assert!(kill > 20, "{kill}");
}

#[test]
fn a_first_trial_that_the_machine_did_not_survive_is_taken_away_after_boot() {
    let world = World::new();
    world.write("needed", "db||running|Up\n", 0o644);
    world.deploy(NEW, 0);
    assert_eq!(world.stack("try", 25).status, KILLED);
    assert_ne!(world.reboot().status, 0, "there is no bundle to boot");
    // The keeper does this when it starts.
    assert_eq!(world.stack("settle", 0).status, 0);
    assert!(!world.path("containers").exists() && !world.path("stacks/web").exists());
}

#[test]
fn files_that_were_altered_are_put_right_and_their_services_made_anew_once() {
    let mut kill = 0;
    let (world, old) = World::with(OLD);
    world.save();
    loop {
        kill += 1;
        world.restore();
        let file = format!("stacks/web/bundles/{old}/conf/a");
        world.write(&file, "by hand", 0o644);
        let (_, output) = world.deploy(OLD, kill);
        assert!([KILLED, 0].contains(&output.status), "{}", said(&output));
        if output.status == KILLED {
            assert_eq!(world.deploy(OLD, 0).1.text(), "current\n", "{kill}");
        }
        assert_eq!(world.read(&file), "a", "{kill}");
        world.write("asked", "", 0o644);
        assert_eq!(world.stack("up", 0).status, 0);
        let asked = world.read("asked");
        assert_eq!(
            asked.matches("up --detach --no-build --no-deps --force-recreate http").count(),
            1,
            "{kill}: {asked}"
        );
        world.runs(&old, &format!("killed before command {kill}"));
        assert_eq!(names(&world.path(&format!("stacks/web/bundles/{old}/conf"))), ["a"], "{kill}");
        if output.status == 0 {
            break;
        }
    }
    println!("deploy.sh, files altered: killed before each of {} commands", kill - 1);
}

#[test]
fn a_transfer_killed_before_any_command_is_finished_by_the_next_and_leaves_nothing() {
    let mut kill = 0;
    loop {
        kill += 1;
        let world = World::new();
        let output = world.load(kill);
        if output.status != KILLED {
            assert_eq!(output.status, 0, "{}", said(&output));
            break;
        }
        let again = world.load(0);
        assert_eq!(again.status, 0, "{kill}: {}", said(&again));
        assert_eq!(world.read("image"), "sha256:2");
        assert_eq!(names(&world.path("store")).len(), 2, "{kill}");
        let left = names(&world.path(""));
        assert!(!left.iter().any(|name| name.starts_with("incoming")), "{kill}: {left:?}");
    }
    println!("load.sh: killed before each of {} commands", kill - 1);
    assert!(kill > 20, "{kill}");
}
