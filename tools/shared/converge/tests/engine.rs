//! The engine and the contract around it, with a tool whose world is a map in memory.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use hearth_converge::{
    Address, Change, Context, Facts, Impact, Kind, Quiet, Reason, Rendered, Step, Tool, apply, observe_plan, reason,
};
use remote::Fleet;
use serde_json::{Value, json};

/// Wants every key of `wanted` in `world`; `deaf` keys stay as they are whatever is applied.
#[derive(Default)]
struct Fake {
    wanted: BTreeMap<String, u32>,
    world: Mutex<BTreeMap<String, u32>>,
    deaf: BTreeSet<String>,
    failing: BTreeSet<String>,
    loses_data: bool,
    order: Mutex<Vec<String>>,
}

impl Tool for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn about(&self) -> &'static str {
        "Keeps a map in memory"
    }

    fn desired(&self, _: &Context<'_>) -> anyhow::Result<Value> {
        Ok(json!(self.wanted))
    }

    fn render(&self, _: &Context<'_>) -> anyhow::Result<Vec<Rendered>> {
        Ok(Vec::new())
    }

    fn plan(&self, _: &Context<'_>, _: &Facts) -> anyhow::Result<Vec<Step>> {
        let world = self.world.lock().unwrap();
        let impact = || if self.loses_data { Impact::DataLoss(vec!["it".into()]) } else { Impact::None };
        let step = |(key, after): (&String, &u32)| Step {
            change: Change {
                address: Address::new(["fake", key]),
                kind: Kind::Update,
                before: json!(world.get(key)),
                after: json!(after),
                impact: impact(),
            },
            lane: key[..1].to_owned(),
            wave: after % 10,
            action: json!([key, after]),
        };
        Ok(self.wanted.iter().filter(|(key, after)| world.get(*key) != Some(after)).map(step).collect())
    }

    fn apply(&self, _: &Context<'_>, step: &Step) -> anyhow::Result<()> {
        let (key, after): (String, u32) = serde_json::from_value(step.action.clone())?;
        self.order.lock().unwrap().push(key.clone());
        anyhow::ensure!(!self.failing.contains(&key), "no way to set {key}");
        if !self.deaf.contains(&key) {
            self.world.lock().unwrap().insert(key, after);
        }
        Ok(())
    }
}

fn fake(wanted: &[(&str, u32)]) -> Fake {
    Fake { wanted: wanted.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(), ..Fake::default() }
}

fn with<T>(only: &[String], work: impl FnOnce(&Context<'_>) -> T) -> T {
    let project = tempfile::tempdir().unwrap();
    let folder = project.path().join("site");
    store::files::write_atomic(&project.path().join("pipeline.toml"), "", 0o644).unwrap();
    store::files::write_atomic(&folder.join("site.toml"), "[site]\nname = \"fake\"\n", 0o644).unwrap();
    let site = site::load(&folder).unwrap();
    let store = store::Store::open(&project.path().join(".hearth/store")).unwrap();
    let fleet = Fleet::new(&site);
    let (events, absent) = (&Quiet, BTreeSet::new());
    work(&Context { site: &site, store: &store, fleet: &fleet, events, only, absent })
}

#[test]
fn a_second_apply_changes_nothing() {
    let tool = fake(&[("a", 1), ("b", 2)]);
    with(&[], |cx| {
        let plan = observe_plan(cx, &tool).unwrap();
        assert_eq!(apply(cx, &tool, "fake", &plan, &[]).unwrap().changes, 2);
        let plan = observe_plan(cx, &tool).unwrap();
        assert_eq!(apply(cx, &tool, "fake", &plan, &[]).unwrap().changes, 0);
        assert_eq!(tool.order.lock().unwrap().len(), 2);
    });
}

#[test]
fn a_change_that_does_not_hold_fails_the_stage() {
    let tool = Fake { deaf: ["b".to_owned()].into(), ..fake(&[("a", 1), ("b", 2)]) };
    with(&[], |cx| {
        let plan = observe_plan(cx, &tool).unwrap();
        let error = apply(cx, &tool, "fake", &plan, &[]).unwrap_err();
        assert_eq!(error.to_string(), "fake applied 2 changes, but this still differs:\n~ fake/b\n    2");
    });
}

#[test]
fn a_failed_step_ends_its_lane_and_the_waves_after_it() {
    let tool = Fake { failing: ["b".to_owned()].into(), ..fake(&[("a", 11), ("b", 21), ("b2", 31), ("c", 2)]) };
    with(&[], |cx| {
        let plan = observe_plan(cx, &tool).unwrap();
        let error = apply(cx, &tool, "fake", &plan, &[]).unwrap_err();
        assert_eq!(format!("{error:#}"), "can't apply fake/b: no way to set b");
        let order = tool.order.lock().unwrap();
        assert!(order.contains(&"a".to_owned()), "the other lane goes on: {order:?}");
        assert!(!order.contains(&"b2".to_owned()) && !order.contains(&"c".to_owned()), "{order:?}");
    });
}

#[test]
fn data_is_lost_only_by_exact_address_and_nothing_is_done_before() {
    let tool = Fake { loses_data: true, ..fake(&[("a", 1), ("ab", 2)]) };
    with(&[], |cx| {
        let plan = observe_plan(cx, &tool).unwrap();
        let error = apply(cx, &tool, "fake", &plan, &["fake/a".to_owned()]).unwrap_err();
        assert_eq!(reason(&error), Reason::Refused);
        assert_eq!(error.to_string(), "fake/ab would lose the data of it");
        assert!(tool.order.lock().unwrap().is_empty());
        let allow = ["fake/a".to_owned(), "fake/ab".to_owned()];
        assert_eq!(apply(cx, &tool, "fake", &plan, &allow).unwrap().changes, 2);
    });
}

#[test]
fn only_leaves_the_rest_alone() {
    let tool = fake(&[("a", 1), ("b", 2)]);
    with(&["fake/a".to_owned()], |cx| {
        let plan = observe_plan(cx, &tool).unwrap();
        assert_eq!(apply(cx, &tool, "fake", &plan, &[]).unwrap().changes, 1);
        assert_eq!(*tool.world.lock().unwrap(), BTreeMap::from([("a".to_owned(), 1)]));
    });
}
