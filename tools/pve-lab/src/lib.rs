//! pve-lab.
