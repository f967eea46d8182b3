//! A small site on an API-only server, with images and guests that are not real.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use converge::{Context, Quiet};
use image::DiskImage;
use pve::{Client, Pin, Token};
use pve_lab::Release;
use pve_lab::testing::ApiOnly;
use remote::Fleet;
use serde_json::{Value, json};
use site::{Api, Guest, Host, Name, Network, Site, Ssh, Template, Vmid};
use store::{Digest, Store};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use vm_build::VmBuild;
use vm_build::guests::Guests;
use vm_build::images::Images;
use vm_build::inside::Inside;

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn vmid(number: u32) -> Vmid {
    Vmid::try_from(number).unwrap()
}

/// The images of a test, as they are at the moment.
pub type Disks = Arc<Mutex<BTreeMap<Name, DiskImage>>>;

struct FakeImages(Disks);

impl Images for FakeImages {
    fn disks(&self, _: &Context<'_>, _: bool) -> Result<BTreeMap<Name, DiskImage>> {
        Ok(self.0.lock().unwrap().clone())
    }
}

/// What was asked of guests, and for which waiting fails.
#[derive(Clone, Default)]
pub struct Log {
    pub lines: Arc<Mutex<Vec<String>>>,
    pub sick: Arc<Mutex<Option<Name>>>,
}

impl Guests for Log {
    fn forget(&self, _: &Context<'_>, name: &Name) -> Result<()> {
        self.lines.lock().unwrap().push(format!("forget {name}"));
        Ok(())
    }

    fn wait(&self, _: &Context<'_>, _: &pve::Vm<'_>, name: &Name, _: &Digest) -> Result<()> {
        self.lines.lock().unwrap().push(format!("wait {name}"));
        anyhow::ensure!(self.sick.lock().unwrap().as_ref() != Some(name), "{name}: cloud-init said: no");
        Ok(())
    }

    fn reapply(&self, _: &Context<'_>, name: &Name, _: &Digest) -> Result<()> {
        self.lines.lock().unwrap().push(format!("reapply {name}"));
        Ok(())
    }

    fn settle(&self, _: &Context<'_>, name: &Name, inside: &Inside) -> Result<()> {
        let disks = inside.disks.iter().map(|disk| format!(" {} {}", disk.name, disk.size)).collect::<String>();
        self.lines.lock().unwrap().push(format!("settle {name} {}{disks}", inside.disk));
        Ok(())
    }
}

/// Everything that a run of the tool needs.
pub struct Lab {
    pub server: ApiOnly,
    pub site: Site,
    pub store: Store,
    pub disks: Disks,
    pub log: Log,
    folder: tempfile::TempDir,
}

impl Lab {
    pub fn start() -> Self {
        Self::speaking(Release::default())
    }

    /// Starts on a server of one release of Proxmox VE.
    pub fn speaking(release: Release) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = ApiOnly::start_in(&folder.path().join("server"), release).unwrap();
        let write = |file: &str, text: &str| {
            store::files::write_atomic(&folder.path().join(file), text, 0o600).unwrap();
        };
        write("token", &server.token);
        write("ca.pem", &server.ca_pem);
        let store = Store::open(&folder.path().join("store")).unwrap();
        let site = site(&server.url, folder.path());
        let lab = Self { server, site, store, disks: Disks::default(), log: Log::default(), folder };
        lab.image("debian-13", b"one");
        lab
    }

    /// Puts an image of 2 GiB into the store under a name.
    pub fn image(&self, image: &str, content: &[u8]) {
        let mut bytes = b"QFI\xfb\0\0\0\x03".to_vec();
        bytes.resize(24, 0);
        bytes.extend((2_u64 << 30).to_be_bytes());
        bytes.resize(512, 0);
        bytes.extend(content);
        let file = self.store.put_bytes(&bytes).unwrap();
        let disk = DiskImage { name: image.into(), file, format: "qcow2".into(), virtual_size: 2 << 30 };
        self.disks.lock().unwrap().insert(name(image), disk);
    }

    pub fn tool(&self) -> VmBuild {
        VmBuild::with(Box::new(FakeImages(self.disks.clone())), Box::new(self.log.clone()))
    }

    pub fn with<T>(&self, work: impl FnOnce(&Context<'_>) -> T) -> T {
        let fleet = Fleet::new(&self.site);
        let (site, store) = (&self.site, &self.store);
        let cx = Context { site, store, fleet: &fleet, events: &Quiet, only: &[], absent: Default::default() };
        work(&cx)
    }

    /// Plans with a tool of its own, as another process would; returns the changes as people see them.
    pub fn plan(&self) -> Result<String> {
        self.with(|cx| {
            let plan = converge::observe_plan(cx, &self.tool())?;
            Ok(plan.steps.iter().map(|step| format!("{}\n", step.change)).collect())
        })
    }

    /// Plans and applies; returns how many changes were made.
    pub fn apply(&self, allow: &[&str]) -> Result<usize> {
        let allow: Vec<String> = allow.iter().map(|&address| address.to_owned()).collect();
        self.with(|cx| {
            let tool = self.tool();
            let plan = converge::observe_plan(cx, &tool)?;
            Ok(converge::apply(cx, &tool, "guests", &plan, &allow)?.changes)
        })
    }

    /// Returns a client of the test's own.
    pub fn client(&self) -> Client {
        let pin = Pin::Authority(self.folder.path().join("ca.pem"));
        Client::new(&self.server.url, Token::parse(&self.server.token).unwrap(), &pin).unwrap()
    }

    /// Gives Hearth's role these privileges, as root does.
    pub fn grant(&self, privileges: &[String]) {
        let authority = Certificate::from_pem(self.server.ca_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::new_with_certs(&[authority]))
            .build();
        let agent: ureq::Agent = ureq::Agent::config_builder().tls_config(tls).build().into();
        let request = agent.put(format!("{}/api2/json/access/roles/Hearth", self.server.url));
        let request = request.header("authorization", format!("PVEAPIToken={}", self.server.root_token));
        request.send_form([("privs", privileges.join(",").as_str())]).unwrap();
    }

    /// Plays a guest's agent: for a path, what its file holds.
    pub fn agent(&self, number: u32, path: &'static str, content: &'static str) {
        let socket = self.server.dir.join(format!("run/{number}.qga"));
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for line in lines.map_while(Result::ok) {
                    let asked: Value = serde_json::from_str(&line).unwrap();
                    let answer = match asked["execute"].as_str() {
                        Some("guest-sync") => json!({"return": asked["arguments"]["id"]}),
                        Some("guest-file-open") if asked["arguments"]["path"] != path => {
                            json!({"error": {"desc": "failed to open file: No such file or directory"}})
                        }
                        Some("guest-file-read") => {
                            json!({"return": {"eof": true, "buf-b64": STANDARD.encode(content)}})
                        }
                        _ => json!({"return": 7}),
                    };
                    let _ = stream.write_all(format!("{answer}\n").as_bytes());
                }
            }
        });
    }

    pub fn config(&self, number: u32) -> BTreeMap<String, String> {
        self.client().node("pve1").vm(vmid(number)).config().unwrap().values
    }

    /// Takes what was asked of guests since the last time, in order.
    pub fn asked(&self) -> Vec<String> {
        let mut lines = std::mem::take(&mut *self.log.lines.lock().unwrap());
        lines.sort();
        lines
    }

    /// What there is when a run is over: every VM's configuration, less what is made by chance, and every file of a storage.
    pub fn census(&self) -> BTreeMap<String, String> {
        let client = self.client();
        let node = client.node("pve1");
        let mut all = BTreeMap::new();
        for resource in client.resources("vm").unwrap() {
            let number = u32::try_from(resource.vmid.unwrap()).unwrap();
            all.insert(format!("{number} power"), resource.status);
            for (key, value) in self.config(number) {
                let chance = matches!(key.as_str(), "vmgenid" | "smbios1" | "meta");
                let value = if key == "net0" { "a card".to_owned() } else { value };
                if !chance {
                    all.insert(format!("{number} {key}"), value);
                }
            }
            for one in node.vm(vmid(number)).pending().unwrap() {
                assert!(one.pending.is_none() && one.delete.is_none(), "{number}: {one:?}");
            }
        }
        for kind in ["iso", "images", "import"] {
            for volume in node.content("local", kind).unwrap() {
                all.insert(volume.volid, format!("{:?}", volume.size));
            }
        }
        all
    }

    pub fn isos(&self) -> Vec<String> {
        let volumes = self.client().node("pve1").content("local", "iso").unwrap();
        let mut names: Vec<String> = volumes.into_iter().map(|volume| volume.volid).collect();
        names.sort();
        names
    }
}

/// Returns the site `lab`: host `pve1`, a template, two guests.
pub fn site(url: &str, folder: &std::path::Path) -> Site {
    let ssh = Ssh {
        user: "hearth".into(),
        port: 22,
        key_file: folder.join("key"),
        known_hosts_file: folder.join("known_hosts"),
        pinned: Vec::new(),
    };
    let api = Api {
        url: url.to_owned(),
        node: "pve1".into(),
        token_file: folder.join("token"),
        ca_file: Some(folder.join("ca.pem")),
        fingerprint: None,
        pinned: None,
    };
    let host = Host { address: [192, 168, 1, 100].into(), api, ssh: ssh.clone(), storage: "local".into() };
    let template = Template { host: name("pve1"), vmid: vmid(9001), image: name("debian-13") };
    let guest = |number: u32| Guest {
        host: name("pve1"),
        vmid: vmid(number),
        template: name("debian-13"),
        address: [192, 168, 1, u8::try_from(number).unwrap()].into(),
        cores: 2,
        memory: "1G".parse().unwrap(),
        disk: "6G".parse().unwrap(),
        onboot: true,
        ssh: ssh.clone(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7k7Fz0 lab: the key # of the lab".into()],
        pending_keys: Vec::new(),
        user_data: None,
        on_change: Default::default(),
        disks: Default::default(),
        pci: Vec::new(),
    };
    Site {
        name: name("lab"),
        folder: folder.to_owned(),
        project: folder.to_owned(),
        network_namespace: None,
        snapshots: None,
        inputs: Vec::new(),
        network: Network {
            bridge: "vmbr0".into(),
            prefix: 24,
            gateway: Some([192, 168, 1, 1].into()),
            nameservers: vec![[192, 168, 1, 1].into()],
            domain: Some("home.example".into()),
        },
        hosts: [(name("pve1"), host)].into_iter().collect(),
        logical_volumes: Default::default(),
        pools: Default::default(),
        shares: Default::default(),
        templates: [(name("debian-13"), template)].into_iter().collect(),
        guests: [(name("vm-intranet"), guest(101)), (name("vm-extranet"), guest(111))].into_iter().collect(),
        secrets: Default::default(),
        stacks: Default::default(),
        checks: Default::default(),
    }
}
