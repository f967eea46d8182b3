//! The API from a client's side, against an API-only server.

mod client;

use std::fs;

use client::Client;
use pve_lab::Release;
use pve_lab::testing::ApiOnly;
use serde_json::json;
use sha2::Digest as _;

#[allow(clippy::unwrap_used, reason = "a test's helper may panic as the test itself does")]
fn lab() -> (ApiOnly, Client) {
    let server = ApiOnly::start().unwrap();
    let client = Client::new(&server);
    (server, client)
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_good_token_is_let_in_and_any_other_is_not() {
    let (_server, mut client) = lab();
    assert_eq!(client.get("/version").body["data"]["release"], "9.2");
    for token in ["root@pam!hearth=00000000-0000-4000-8000-000000000000", "root@pam!other=1", "nonsense"] {
        client.token = token.to_owned();
        let reply = client.get("/version");
        assert_eq!((reply.status, reply.body), (401, json!("")), "{token}");
    }
}

#[test]
fn a_password_gives_a_ticket_and_a_wrong_one_does_not() {
    let (server, client) = lab();
    let good = client.post("/access/ticket", &[("username", "root@pam"), ("password", &server.password)]);
    assert_eq!(good.status, 200);
    assert!(good.body["data"]["ticket"].as_str().unwrap().starts_with("PVE:root@pam:"));
    let wrong = client.post("/access/ticket", &[("username", "root@pam"), ("password", "guess")]);
    assert_eq!((wrong.status, &wrong.body["message"]), (401, &json!("authentication failure\n")));
}

#[test]
fn parameters_are_checked_against_the_schema() {
    let (_server, client) = lab();
    let reply = client.post("/nodes/pve1/qemu", &[("vmid", "100"), ("cores", "0"), ("bogus", "1"), ("memory", "x")]);
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.body,
        json!({
            "data": null,
            "message": "Parameter verification failed.\n",
            "errors": {
                "bogus": "property is not defined in schema and the schema does not allow additional properties",
                "cores": "value must have a minimum value of 1",
                "memory": "invalid format - format error\nmemory.current: type check ('integer') failed - got 'x'\n",
            },
        })
    );
    let missing = client.post("/nodes/pve1/qemu", &[]);
    assert_eq!(missing.body["errors"]["vmid"], "property is missing and it is not optional");
}

#[test]
fn what_is_not_there_says_so_by_name() {
    let (_server, client) = lab();
    let unknown = client.get("/nosuch");
    assert_eq!((unknown.status, &unknown.body["message"]), (501, &json!("Method 'GET /nosuch' not implemented")));
    let known = client.get("/cluster/ceph/flags");
    assert_eq!(known.status, 501);
    assert_eq!(known.body["message"], "Method 'GET /cluster/ceph/flags' not implemented in pve-lab (get_all_flags)");
    let body = client.get("/nodes/other/status");
    assert_eq!(body.status, 500);
}

#[test]
fn a_guest_lives_from_create_to_destroy() {
    let (_server, client) = lab();
    client.create("100", &[("name", "web"), ("memory", "256"), ("scsi0", "local:2"), ("net0", "virtio,bridge=vmbr0")]);
    let config = client.config("100");
    assert_eq!(config["scsi0"], "local:100/vm-100-disk-0.raw,size=2G");
    assert_eq!((&config["memory"], &config["boot"]), (&json!("256"), &json!("order=scsi0;net0")));
    assert!(config["net0"].as_str().unwrap().starts_with("virtio=BC:24:11:"));
    assert_eq!(client.get("/cluster/nextid").body["data"], "101");

    let again = client.post("/nodes/pve1/qemu", &[("vmid", "100")]);
    assert_eq!(again.status, 500);
    assert_eq!(again.body["message"], "unable to create VM 100 - VM 100 already exists on node 'pve1'\n");

    let grown = client.put("/nodes/pve1/qemu/100/resize", &[("disk", "scsi0"), ("size", "+1G")]);
    assert_eq!(client.end(&grown), "OK");
    let shrunk = client.put("/nodes/pve1/qemu/100/resize", &[("disk", "scsi0"), ("size", "1G")]);
    assert_eq!(client.end(&shrunk), "shrinking disks is not supported");
    assert_eq!(client.config("100")["scsi0"], "local:100/vm-100-disk-0.raw,size=3G");

    let started = client.post("/nodes/pve1/qemu/100/status/start", &[]);
    assert_eq!(client.end(&started), "OK");
    assert_eq!(client.get("/nodes/pve1/qemu/100/status/current").body["data"]["status"], "running");
    let running = client.delete("/nodes/pve1/qemu/100");
    assert_eq!(running.body["message"], "VM 100 is running - destroy failed\n");
    assert_eq!(client.end(&client.post("/nodes/pve1/qemu/100/status/stop", &[])), "OK");
    assert_eq!(client.end(&client.delete("/nodes/pve1/qemu/100")), "OK");
    assert_eq!(client.get("/nodes/pve1/qemu/100/config").status, 500);
    assert_eq!(client.get("/nodes/pve1/storage/local/content?vmid=100").body["data"], json!([]));
}

#[test]
fn a_running_guest_keeps_its_options_until_it_stops() {
    let (_server, client) = lab();
    client.create("100", &[("cores", "1")]);
    client.end(&client.post("/nodes/pve1/qemu/100/status/start", &[]));
    assert_eq!(client.put("/nodes/pve1/qemu/100/config", &[("cores", "4"), ("tags", "B;a")]).status, 200);
    let now = client.get("/nodes/pve1/qemu/100/config?current=1").body["data"].clone();
    assert_eq!((&now["cores"], &now["tags"]), (&json!(1), &json!("a;b")));
    assert_eq!(client.config("100")["cores"], 4);
    client.end(&client.post("/nodes/pve1/qemu/100/status/stop", &[]));
    assert_eq!(client.get("/nodes/pve1/qemu/100/config?current=1").body["data"]["cores"], 4);
}

#[test]
fn a_change_on_an_old_digest_is_refused() {
    let (_server, client) = lab();
    client.create("100", &[]);
    let digest = client.config("100")["digest"].as_str().unwrap().to_owned();
    assert_eq!(client.put("/nodes/pve1/qemu/100/config", &[("cores", "2"), ("digest", &digest)]).status, 200);
    let late = client.put("/nodes/pve1/qemu/100/config", &[("cores", "3"), ("digest", &digest)]);
    assert_eq!(late.status, 500);
    assert!(late.body["message"].as_str().unwrap().starts_with("detected modified configuration"));
    assert_eq!(client.config("100")["cores"], 2);
    let none = client.put("/nodes/pve1/qemu/100/config", &[]);
    assert_eq!(none.body["message"], "no options specified\n");
}

#[test]
fn clones_of_a_template_are_linked_and_hold_their_base() {
    let (_server, client) = lab();
    client.create("9001", &[("name", "tpl"), ("scsi0", "local:1,format=qcow2"), ("ide2", "local:cloudinit")]);
    assert_eq!(client.end(&client.post("/nodes/pve1/qemu/9001/template", &[])), "OK");
    let started = client.post("/nodes/pve1/qemu/9001/status/start", &[]);
    assert_eq!(client.end(&started), "you can't start a vm if it's a template");
    let cloned = client.post("/nodes/pve1/qemu/9001/clone", &[("newid", "101"), ("name", "one")]);
    assert_eq!(client.end(&cloned), "OK");
    let config = client.config("101");
    assert_eq!(config["scsi0"], "local:9001/base-9001-disk-0.qcow2/101/vm-101-disk-0.qcow2,size=1G");
    assert_eq!(config["ide2"], "local:101/vm-101-cloudinit.qcow2,media=cdrom,size=4M");
    assert_ne!(config["smbios1"], client.config("9001")["smbios1"]);
    let full = client.post("/nodes/pve1/qemu/9001/clone", &[("newid", "102"), ("full", "1")]);
    assert_eq!(client.end(&full), "OK");
    assert_eq!(client.config("102")["scsi0"], "local:102/vm-102-disk-0.qcow2,size=1G");

    let held = client.delete("/nodes/pve1/qemu/9001");
    let text = "base volume 'local:9001/base-9001-disk-0.qcow2' is still in use by linked cloned";
    assert_eq!(client.end(&held), text);
    assert_eq!(client.end(&client.delete("/nodes/pve1/qemu/101")), "OK");
    assert_eq!(client.end(&client.delete("/nodes/pve1/qemu/9001")), "OK");
}

#[test]
fn a_disk_that_is_let_go_stays_as_unused() {
    let (_server, client) = lab();
    client.create("100", &[("scsi0", "local:1")]);
    let put = |form: &[(&str, &str)]| assert_eq!(client.put("/nodes/pve1/qemu/100/config", form).status, 200);
    put(&[("delete", "scsi0")]);
    assert_eq!(client.config("100")["unused0"], "local:100/vm-100-disk-0.raw");
    put(&[("scsi1", "local:100/vm-100-disk-0.raw,discard=on")]);
    let config = client.config("100");
    assert_eq!(config["scsi1"], "local:100/vm-100-disk-0.raw,discard=on,size=1G");
    assert_eq!(config.get("unused0"), None);
    put(&[("delete", "scsi1")]);
    put(&[("delete", "unused0")]);
    assert_eq!(client.get("/nodes/pve1/storage/local/content?vmid=100").body["data"], json!([]));
}

#[test]
fn an_upload_is_kept_only_if_its_checksum_fits() {
    let (server, client) = lab();
    let path = "/nodes/pve1/storage/local/upload";
    let bytes = vec![7; 300_000];
    let with = |sum: &str| {
        let fields = [("content", "iso"), ("checksum-algorithm", "sha256"), ("checksum", sum)];
        client.end(&client.upload(path, &fields, "seed.iso", &bytes))
    };
    let wrong = "0".repeat(64);
    assert_eq!(with(&wrong), format!("checksum mismatch: got '{}' != expect '{wrong}'", sha256(&bytes)));
    assert_eq!(client.get("/nodes/pve1/storage/local/content?content=iso").body["data"], json!([]));
    assert_eq!(with(&sha256(&bytes)), "OK");
    let listed = client.get("/nodes/pve1/storage/local/content?content=iso").body["data"][0].clone();
    assert_eq!((&listed["volid"], &listed["size"]), (&json!("local:iso/seed.iso"), &json!(300_000)));
    let left: Vec<_> = fs::read_dir(server.dir.join("storage")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["local"], "a temporary file was left");

    assert_eq!(
        client.upload(path, &[("content", "iso")], "x.txt", b"").body["errors"]["filename"],
        "wrong file extension"
    );
    assert_eq!(client.upload(path, &[("checksum", "0"), ("content", "iso")], "x.iso", b"").status, 400);
    assert_eq!(client.upload(path, &[("content", "snippets")], "x.yaml", b"").status, 400);
}

#[test]
fn an_imported_disk_has_its_own_size_and_may_name_no_other_file() {
    let (_server, client) = lab();
    let header = |backing: bool| {
        let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
        head.extend(if backing { 104_u64 } else { 0 }.to_be_bytes());
        head.extend(if backing { 13_u32 } else { 0 }.to_be_bytes());
        head.extend(16_u32.to_be_bytes());
        head.extend((5_u64 << 30).to_be_bytes());
        head.resize(104, 0);
        head.extend(b"/etc/hostname");
        head
    };
    for (name, backing) in [("good.qcow2", false), ("bad.qcow2", true)] {
        let path = "/nodes/pve1/storage/local/upload";
        let sent = client.upload(path, &[("content", "import")], name, &header(backing));
        assert_eq!(client.end(&sent), "OK");
    }
    client.create("100", &[("scsi0", "local:0,import-from=local:import/good.qcow2")]);
    assert_eq!(client.config("100")["scsi0"], "local:100/vm-100-disk-0.qcow2,size=5G");
    let disk = [("vmid", "101"), ("scsi0", "local:0,import-from=local:import/bad.qcow2")];
    let refused = client.end(&client.post("/nodes/pve1/qemu", &disk));
    assert!(refused.ends_with("backing file '/etc/hostname' is not allowed"), "{refused}");
    assert_eq!(client.get("/nodes/pve1/qemu/101/config").status, 500, "a failed create left its guest");
    let host = [("vmid", "102"), ("scsi0", "local:0,import-from=/etc/hostname")];
    assert_eq!(client.post("/nodes/pve1/qemu", &host).status, 403);
}

#[test]
fn a_password_is_in_no_answer_and_no_log() {
    let (server, client) = lab();
    client.create("100", &[]);
    let changed = client.post("/nodes/pve1/qemu/100/config", &[("cipassword", "$5$salt$plantedhash"), ("ciuser", "a")]);
    assert_eq!(client.end(&changed), "OK");
    assert_eq!(client.config("100")["cipassword"], "**********");
    let grep = |folder: &str| {
        let files = fs::read_dir(server.dir.join("state").join(folder)).unwrap().flatten();
        files.filter(|file| fs::read_to_string(file.path()).unwrap().contains("plantedhash")).count()
    };
    assert_eq!((grep("qemu"), grep("tasks")), (1, 0), "it is in the configuration, and nowhere else");
    assert!(!format!("{server:?}").contains(&server.password));
}

#[test]
fn state_and_tasks_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = ApiOnly::start_in(folder.path(), Release::V9).unwrap();
    let client = Client::new(&server);
    let created = client.post("/nodes/pve1/qemu", &[("vmid", "100"), ("cores", "3"), ("scsi0", "local:1")]);
    assert_eq!(client.end(&created), "OK");
    client.end(&client.post("/nodes/pve1/qemu/100/status/start", &[]));
    let token = server.token.clone();
    drop(server);

    let server = ApiOnly::start_in(folder.path(), Release::V9).unwrap();
    let client = Client::new(&server);
    assert_eq!(server.token, token);
    assert_eq!(client.config("100")["cores"], 3);
    assert_eq!(client.get("/nodes/pve1/qemu/100/status/current").body["data"]["status"], "running");
    assert_eq!(client.end(&created), "OK");
}

#[test]
fn a_guest_that_was_half_made_when_the_server_ended_is_gone_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = ApiOnly::start_in(folder.path(), Release::V9).unwrap();
    let client = Client::new(&server);
    client.create("100", &[("scsi0", "local:1")]);
    drop(server);
    let half = json!({"config": {"lock": "create"}}).to_string();
    store::files::write_atomic(&folder.path().join("state/qemu/100.json"), half, 0o600).unwrap();

    let server = ApiOnly::start_in(folder.path(), Release::V9).unwrap();
    let client = Client::new(&server);
    assert_eq!(client.get("/nodes/pve1/qemu").body["data"], json!([]));
    assert_eq!(client.get("/nodes/pve1/storage/local/content?vmid=100").body["data"], json!([]));
    client.create("100", &[]);
}

#[test]
fn both_releases_answer_by_their_own_schema() {
    let folder = tempfile::tempdir().unwrap();
    let server = ApiOnly::start_in(folder.path(), Release::V8).unwrap();
    let client = Client::new(&server);
    assert_eq!(client.get("/version").body["data"]["release"], "8.4");
    let form = [("vmid", "100"), ("virtiofs0", "share")];
    let ended = client.post("/nodes/pve1/qemu", &form);
    assert_eq!(ended.status, 200, "8.4 has virtiofs");
    let tdx = client.post("/nodes/pve1/qemu", &[("vmid", "101"), ("intel-tdx", "tdx,attestation=0")]);
    assert!(tdx.body["errors"]["intel-tdx"].as_str().unwrap().starts_with("property is not defined"));
}
