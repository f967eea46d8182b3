//! The systemd unit that starts and stops a stack.

use crate::paths;

/// What a stack's unit depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit<'a> {
    /// The site.
    pub site: &'a str,
    /// The stack.
    pub stack: &'a str,
    /// Mount points of the shares that it uses.
    pub mounts: Vec<&'a str>,
    /// Stacks that must be healthy before it starts.
    pub needs: Vec<&'a str>,
    /// How long its containers may take to get healthy, in seconds.
    pub deadline: u64,
}

/// Returns the name of a mount point's unit, as `systemd-escape --path --suffix=mount` does (systemd.unit(5)).
pub fn mount_unit(path: &str) -> String {
    let mut name = String::new();
    for (index, byte) in path.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name += "\\x2e",
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(char::from(byte)),
            other => name += &format!("\\x{other:02x}"),
        }
    }
    name + ".mount"
}

impl Unit<'_> {
    /// Writes the unit.
    pub fn text(&self) -> String {
        let Self { site, stack, mounts, needs, deadline } = self;
        let join = |names: &[String]| names.iter().map(|name| format!(" {name}")).collect::<String>();
        let mount_units: Vec<_> = mounts.iter().map(|path| mount_unit(path)).collect();
        let need_units: Vec<_> = needs.iter().map(|need| paths::unit(need)).collect();
        let (mount_list, need_list) = (join(&mount_units), join(&need_units));
        let mut text = format!(
            "{}\n\n[Unit]\nDescription=Stack {stack}\nRequires=docker.service{need_list}\n\
             After=docker.service network-online.target{need_list}{mount_list}\nWants=network-online.target\n",
            paths::header(site)
        );
        if !mounts.is_empty() {
            text += &format!(
                "# Without its mounts a database would begin anew on the guest's own disk: the stack starts after \
                 them, and stops when\n# one goes.\nRequiresMountsFor={}\nBindsTo={}\n",
                mounts.join(" "),
                mount_list.trim_start()
            );
        }
        text += &format!(
            "StartLimitIntervalSec=0\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
             ExecStart={program} up {stack} {deadline}\nExecReload={program} up {stack} {deadline}\n\
             ExecStop={program} stop {stack}\nTimeoutStartSec={start}\nTimeoutStopSec=120\nRestart=on-failure\n\
             RestartSec=15\n\n[Install]\n",
            program = paths::PROGRAM,
            start = deadline + 120
        );
        if !mounts.is_empty() || !needs.is_empty() {
            text += "# What it stops with, or had to wait for, brings it back: a mount whose server was late, a stack that it needs.\n";
        }
        text + &format!("WantedBy=multi-user.target{need_list}{mount_list}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_units_are_named_as_systemd_names_them() {
        assert_eq!(mount_unit("/mnt/appdata"), "mnt-appdata.mount");
        assert_eq!(mount_unit("/mnt/my-data"), "mnt-my\\x2ddata.mount");
        assert_eq!(mount_unit("/.hidden/a.b"), "\\x2ehidden-a.b.mount");
    }

    #[test]
    fn a_unit_requires_its_mounts_and_the_stacks_it_needs() {
        let unit = Unit {
            site: "lab",
            stack: "photos",
            mounts: vec!["/mnt/postgres", "/mnt/my-data"],
            needs: vec!["media"],
            deadline: 300,
        };
        assert_eq!(unit.text(), include_str!("../tests/golden/photos.service"));
    }

    #[test]
    fn a_stack_without_mounts_waits_for_none() {
        let unit = Unit { site: "lab", stack: "proxy", mounts: vec![], needs: vec![], deadline: 60 };
        assert_eq!(unit.text(), include_str!("../tests/golden/proxy.service"));
    }
}
