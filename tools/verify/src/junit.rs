//! Results as JUnit XML.

use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::CheckResult;
use indexmap::IndexMap;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// Writes results as JUnit XML: a suite for each kind of check, which is the first part of its name.
///
/// # Errors
/// Where the report can't be written as XML.
pub fn junit(site: &str, results: &[CheckResult]) -> Result<String> {
    let mut suites: IndexMap<&str, TestSuite> = IndexMap::new();
    for result in results {
        let CheckResult { name, failure, seen, milliseconds } = result;
        let kind = name.split('/').next().unwrap_or_default();
        let status = match failure {
            None => TestCaseStatus::success(),
            Some(why) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(why.lines().next().unwrap_or_default()).set_description(why);
                status
            }
        };
        let mut case = TestCase::new(name, status);
        case.set_classname(format!("{site}.{kind}")).set_time(Duration::from_millis(*milliseconds));
        if !seen.is_empty() {
            case.set_system_out(seen);
        }
        suites.entry(kind).or_insert_with(|| TestSuite::new(kind)).add_test_case(case);
    }
    let mut report = Report::new(format!("verify {site}"));
    report.add_test_suites(suites.into_values());
    report.to_string().context("can't write the results as XML")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, failure: Option<&str>, seen: &str) -> CheckResult {
        CheckResult {
            name: name.to_owned(),
            failure: failure.map(str::to_owned),
            seen: seen.to_owned(),
            milliseconds: 1_500,
        }
    }

    #[test]
    fn results_are_grouped_and_failures_say_why() {
        let results = [
            result("pool/pve1/tank", None, "ONLINE"),
            result("check/a", Some("status 500\n<body> & more\u{1b}"), "500"),
            result("pool/pve1/other", Some("DEGRADED"), ""),
        ];
        assert_eq!(junit("lab", &results).unwrap(), include_str!("../tests/golden/junit.xml"));
    }
}
