//! A Ctrl-C in the middle of a plan: the step that runs is ended, the next is not begun, and both are said.
//!
//! One test alone: a process can't be un-asked.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_converge::{
    Address, Change, Context, Facts, Impact, Kind, Plan, Quiet, Rendered, Step, Tool, apply, describe, exit, reason,
    stop,
};
use serde_json::{Value, json};

/// Asks this process to stop while it applies the second of its steps.
struct Impatient;

impl Tool for Impatient {
    fn name(&self) -> &'static str {
        "impatient"
    }

    fn about(&self) -> &'static str {
        "Stops itself"
    }

    fn desired(&self, _: &Context<'_>) -> anyhow::Result<Value> {
        Ok(Value::Null)
    }

    fn render(&self, _: &Context<'_>) -> anyhow::Result<Vec<Rendered>> {
        Ok(Vec::new())
    }

    fn plan(&self, _: &Context<'_>, _: &Facts) -> anyhow::Result<Vec<Step>> {
        let step = |name: &str| Step {
            change: Change {
                address: Address::new(["thing", name]),
                kind: Kind::Create,
                before: Value::Null,
                after: json!(name),
                impact: Impact::None,
            },
            lane: "one".into(),
            wave: 0,
            action: json!(name),
        };
        Ok(["a", "b", "c", "d"].map(step).into())
    }

    fn apply(&self, _: &Context<'_>, step: &Step) -> anyhow::Result<()> {
        assert!(!stop::asked(), "{} is begun after the end was asked for", step.change.address);
        if step.action == "b" {
            remote::Command::new("kill").args(["-INT", &std::process::id().to_string()]).run()?;
            while !stop::asked() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

#[test]
fn a_stopped_apply_says_what_was_made_and_what_was_not() {
    let project = tempfile::tempdir().unwrap();
    let folder = project.path().join("site");
    store::files::write_atomic(&project.path().join("pipeline.toml"), "", 0o644).unwrap();
    store::files::write_atomic(&folder.join("site.toml"), "[site]\nname = \"fake\"\n", 0o644).unwrap();
    let site = site::load(&folder).unwrap();
    let store = store::Store::open(&project.path().join(".hearth/store")).unwrap();
    let fleet = remote::Fleet::new(&site);
    let cx = Context { site: &site, store: &store, fleet: &fleet, events: &Quiet, only: &[], absent: BTreeSet::new() };
    stop::listen().unwrap();
    stop::safe_point("anything").unwrap();
    let steps = Impatient.plan(&cx, &Facts::default()).unwrap();
    let plan = Plan { tool: "impatient".into(), site: "fake".into(), steps };
    let error = apply(&cx, &Impatient, "stage", &plan, &[]).unwrap_err();
    assert_eq!(
        describe(&error),
        "error: impatient stopped before thing/c, as it was asked to: 2 of 4 changes were made\n  \
         made: thing/a, thing/b\n  not made: thing/c, thing/d\n  hint: run it again: it goes on from here"
    );
    assert_eq!(reason(&error).code(), exit::FAILED);
    let error = stop::safe_point("the stages verify").unwrap_err();
    assert_eq!(error.to_string(), "stopped before the stages verify, as it was asked to");
}
