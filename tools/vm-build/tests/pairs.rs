//! For any two sites A and B: from A's state, B is refused and nothing changed, or it is applied and nothing is left to do.

#![allow(clippy::unwrap_used, reason = "a test's helper fails its test by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use converge::Reason;
use site::{DataDisk, Guest, OnChange};
use support::{Lab, name, vmid};

/// Numbers that look random and are the same in each run (xorshift64, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()].clone()
    }
}

fn size(text: &str) -> site::Size {
    text.parse().unwrap()
}

/// Makes a guest some guest. Sizes mostly grow, so that not every pair is refused.
fn some(dice: &mut Dice, guest: &mut Guest, disk: u32, later: bool) {
    guest.cores = dice.pick(&[1, 2, 4]);
    guest.memory = size(dice.pick(&["512M", "1G"]));
    guest.onboot = dice.pick(&[true, false]);
    guest.on_change = dice.pick(&[OnChange::Reapply, OnChange::Restart, OnChange::Recreate]);
    guest.disk = size(if later { dice.pick(&["6G", "7G", "5G"]) } else { "6G" });
    if dice.roll(2) == 0 {
        guest.authorized_keys.push("ssh-ed25519 AAAAsecond".into());
    }
    if dice.roll(4) == 0 {
        guest.address = [192, 168, 1, 200 + u8::try_from(disk % 100).unwrap()].into();
    }
    if dice.roll(3) > 0 {
        let mount = dice.pick(&[None, Some("/srv/data"), Some("/srv/other")]);
        let mount = mount.map(|path| path.parse().unwrap());
        let size = size(if later { dice.pick(&["2G", "3G", "1G"]) } else { "2G" });
        guest.disks.insert(name("data"), DataDisk { vmid: vmid(disk), size, mount });
    }
}

fn shape(lab: &mut Lab, dice: &mut Dice, later: bool) {
    let mut fresh = support::site(&lab.server.url, lab.store.root().parent().unwrap()).guests;
    if dice.roll(3) == 0 {
        fresh.shift_remove(&name("vm-intranet"));
    }
    for (number, guest) in (901..).zip(fresh.values_mut()) {
        let disk = if guest.vmid == vmid(111) { 911 } else { number };
        some(dice, guest, disk, later);
    }
    lab.site.guests = fresh;
}

#[test]
fn from_any_site_to_any_other() {
    let (mut applied, mut refused, mut still) = (0, 0, 0);
    for seed in 1..=12_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut lab = Lab::start();
        shape(&mut lab, &mut dice, false);
        lab.apply(&[]).unwrap();
        assert_eq!(lab.plan().unwrap(), "", "seed {seed}");
        shape(&mut lab, &mut dice, true);
        let before = lab.census();
        match lab.apply(&["vm/pve1/vm-extranet", "vm/pve1/vm-intranet"]) {
            Ok(0) => still += 1,
            Ok(_) => applied += 1,
            Err(error) => {
                let reason = converge::reason(&error);
                assert!(matches!(reason, Reason::Refused | Reason::Config), "seed {seed}: {error:#}");
                assert_eq!(lab.census(), before, "seed {seed}: it was refused, so nothing has changed");
                refused += 1;
                continue;
            }
        }
        assert_eq!(lab.plan().unwrap(), "", "seed {seed}");
    }
    println!("{applied} pairs applied, {refused} refused, {still} alike");
    assert!(applied >= 3 && refused >= 1, "{applied} applied, {refused} refused");
}
