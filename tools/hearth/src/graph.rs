//! The order of stages.

use crate::pipeline::Stage;

/// Sorts stages so that each comes after all that it needs; of those that could come next, in the order of their names.
///
/// # Errors
/// The names along a circle, first and last the same.
pub fn order(mut rest: Vec<Stage>) -> Result<Vec<Stage>, Vec<String>> {
    rest.sort_by(|a, b| a.name.cmp(&b.name));
    let mut sorted: Vec<Stage> = Vec::new();
    while !rest.is_empty() {
        let done = |need: &String| sorted.iter().any(|stage| stage.name == *need);
        match rest.iter().position(|stage| stage.needs.iter().all(done)) {
            Some(next) => sorted.push(rest.remove(next)),
            None => return Err(circle(&rest)),
        }
    }
    Ok(sorted)
}

/// Walks along needs that are still open until a name comes again.
fn circle(rest: &[Stage]) -> Vec<String> {
    let mut walk: Vec<String> = vec![rest[0].name.clone()];
    loop {
        let last = &walk[walk.len() - 1];
        let open = |need: &&String| rest.iter().any(|stage| stage.name == **need);
        let stage = rest.iter().find(|stage| stage.name == *last);
        let Some(next) = stage.and_then(|stage| stage.needs.iter().find(open)) else { return walk };
        if let Some(from) = walk.iter().position(|name| name == next) {
            walk.push(next.clone());
            return walk.split_off(from);
        }
        walk.push(next.clone());
    }
}
