//! The tools that a stage can name.

use converge::Tool;

/// Returns every tool of the workspace that keeps the tools' contract.
pub fn all() -> Vec<Box<dyn Tool>> {
    vec![
        Box::new(zfs_init::ZfsInit),
        Box::new(vm_build::VmBuild::default()),
        Box::new(nfs_export::NfsExport),
        Box::new(compose_deploy::ComposeDeploy::default()),
        Box::new(verify::Verify),
    ]
}
