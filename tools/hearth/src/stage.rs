//! One stage: observe, plan, apply, observe again; or a check; or a command.

use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::{CheckResult, Context, Event, Failure, Plan, Step, Tool, exit};

use crate::pipeline::{Stage, Work};
use crate::record::Outcome;

/// What a stage came to.
#[derive(Debug)]
pub struct Done {
    /// How it ended; never failed, which is an error.
    pub outcome: Outcome,
    /// The checks that it made, failed ones among them.
    pub checks: Vec<CheckResult>,
}

/// What a stage may know and do.
pub struct Order<'a> {
    /// The context, with the guests that are still absent.
    pub cx: &'a Context<'a>,
    /// The tool that the stage names, where it names one.
    pub tool: Option<&'a dyn Tool>,
    /// The plan from the run's first look, where nothing has changed since.
    pub plan: Option<Plan>,
    /// Addresses that may lose data.
    pub allow: &'a [String],
    /// The stage's part of the plan that was agreed to, where one was given.
    pub agreed: Option<&'a Plan>,
}

/// Runs a stage.
///
/// # Errors
/// Whatever it fails with.
pub fn run(stage: &Stage, order: Order<'_>) -> Result<Done> {
    match (&stage.work, order.tool) {
        (Work::Apply(_), Some(tool)) => apply(stage, tool, order),
        (Work::Check(_), Some(tool)) => check(stage, tool, order.cx),
        (Work::Command { argv, deadline }, _) => command(stage, order.cx, argv, Duration::from_secs(*deadline)),
        (Work::Apply(name) | Work::Check(name), None) => anyhow::bail!("there is no tool '{name}'"),
    }
}

fn apply(stage: &Stage, tool: &dyn Tool, order: Order<'_>) -> Result<Done> {
    let mut plan = match order.plan {
        Some(plan) => plan,
        None => converge::observe_plan(order.cx, tool)?,
    };
    // The first look locks what it found to change; an earlier stage may have given more to do.
    if converge::hold(order.cx, &plan)? {
        plan = converge::observe_plan(order.cx, tool)?;
    }
    for step in &plan.steps {
        order.cx.events.emit(&Event::Planned { stage: stage.name.clone(), change: step.change.clone() });
    }
    agreed(stage, order.agreed, &plan)?;
    let applied = converge::apply(order.cx, tool, &stage.name, &plan, order.allow)?;
    let outcome = if applied.changes == 0 { Outcome::Unchanged } else { Outcome::Changed };
    Ok(Done { outcome, checks: Vec::new() })
}

/// Refuses a change that the agreed plan does not have: a stage plans again after others have changed what it stands on.
fn agreed(stage: &Stage, agreed: Option<&Plan>, plan: &Plan) -> Result<()> {
    let Some(agreed) = agreed else { return Ok(()) };
    let has = |step: &Step| agreed.steps.iter().any(|own| own.change.address == step.change.address);
    let Some(step) = plan.steps.iter().find(|step| !has(step)) else { return Ok(()) };
    let message = format!("stage '{}' needs a change now that is not in the agreed plan:\n{}", stage.name, step.change);
    Err(Failure::refused(message).hint("what came before it is done; plan again, read it, apply that").into())
}

fn check(stage: &Stage, tool: &dyn Tool, cx: &Context<'_>) -> Result<Done> {
    let checks = tool.check(cx)?;
    for result in &checks {
        cx.events.emit(&Event::Checked { stage: stage.name.clone(), result: result.clone() });
    }
    Ok(Done { outcome: Outcome::Unchanged, checks })
}

/// Runs a command by the tools' contract: `plan` says with its exit code whether `apply --yes` is needed, and after that
/// it must say that it is not.
fn command(stage: &Stage, cx: &Context<'_>, argv: &[String], deadline: Duration) -> Result<Done> {
    let call = |args: &[&str]| {
        let program = match argv[0].contains('/') {
            true => cx.site.project.join(&argv[0]).into_os_string(),
            false => argv[0].clone().into(),
        };
        let command = remote::Command::new(program).args(&argv[1..]).args(args).arg("--site").arg(&cx.site.folder);
        command.folder(&cx.site.project).deadline(deadline).output().context("the stage's command failed")
    };
    let plan = call(&["plan"])?;
    if plan.status != i32::from(exit::CHANGES_PENDING) {
        plan.success()?;
        return Ok(Done { outcome: Outcome::Unchanged, checks: Vec::new() });
    }
    cx.events.emit(&Event::Progress { stage: stage.name.clone(), message: plan.text().trim().to_owned() });
    call(&["apply", "--yes"])?.success()?;
    call(&["plan"])?.success().context("it applied its changes, but its plan is not empty")?;
    Ok(Done { outcome: Outcome::Changed, checks: Vec::new() })
}
