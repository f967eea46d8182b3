//! Users, roles, lists and tokens, and what they allow, from a client's side; texts are the real server's.

mod client;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;

use client::{Client, Reply};
use pve_lab::Release;
use pve_lab::testing::ApiOnly;
use serde_json::{Value, json};

#[allow(clippy::unwrap_used, reason = "a test's helper may panic as the test itself does")]
fn lab(release: Release) -> (tempfile::TempDir, ApiOnly, Client) {
    let folder = tempfile::tempdir().unwrap();
    let server = ApiOnly::start_in(folder.path(), release).unwrap();
    let client = Client::new(&server);
    (folder, server, client)
}

fn is(reply: &Reply, status: u16, message: &str) {
    assert_eq!((reply.status, &reply.body["message"]), (status, &json!(message)), "{}", reply.body);
}

fn done(reply: &Reply) {
    assert_eq!((reply.status, &reply.body), (200, &json!({"data": null})));
}

/// Makes a user with a role of these privileges everywhere, and a client with a token of theirs that is not separated.
#[allow(clippy::unwrap_used, reason = "a test's helper may panic as the test itself does")]
fn user(server: &ApiOnly, root: &Client, privileges: &str) -> Client {
    let role = format!("R{}", root.get("/access/roles").body["data"].as_array().unwrap().len());
    let name = format!("{}@pve", role.to_lowercase());
    done(&root.post("/access/users", &[("userid", &name)]));
    done(&root.post("/access/roles", &[("roleid", &role), ("privs", privileges)]));
    done(&root.put("/access/acl", &[("path", "/"), ("users", &name), ("roles", &role)]));
    let made = root.post(&format!("/access/users/{name}/token/t1"), &[("privsep", "0")]);
    let mut client = Client::new(server);
    client.token = format!("{name}!t1={}", made.body["data"]["value"].as_str().unwrap());
    client
}

#[test]
fn users_and_groups_are_made_read_changed_and_deleted() {
    let (_folder, _server, root) = lab(Release::V9);
    done(&root.post("/access/groups", &[("groupid", "staff"), ("comment", "a group")]));
    let again = root.post("/access/groups", &[("groupid", "staff")]);
    is(&again, 500, "create group failed: group 'staff' already exists\n");
    done(&root.post("/access/users", &[("userid", "ann@pve"), ("groups", "staff"), ("email", "a@example.org")]));
    let ann = root.get("/access/users/ann@pve").body["data"].clone();
    let wanted = json!({"email": "a@example.org", "enable": 1, "expire": 0, "groups": ["staff"], "tokens": null});
    assert_eq!(ann, wanted);
    assert_eq!(root.get("/access/groups/staff").body["data"], json!({"comment": "a group", "members": ["ann@pve"]}));
    let refused = |form: &[(&str, &str)], status, message| is(&root.post("/access/users", form), status, message);
    refused(&[("userid", "ann@pve")], 500, "create user failed: user 'ann@pve' already exists\n");
    refused(&[("userid", "ann")], 500, "value 'ann' does not look like a valid user name\n");
    refused(&[("userid", "bob@pve"), ("groups", "none")], 500, "create user failed: no such group 'none'\n");
    let email = root.post("/access/users", &[("userid", "bob@pve"), ("email", "not an address")]);
    assert_eq!(email.body["errors"]["email"], "invalid format - value does not look like a valid email address\n");
    done(&root.put("/access/users/ann@pve", &[("comment", "second"), ("enable", "0")]));
    assert_eq!(root.get("/access/users/ann@pve").body["data"]["enable"], 0);
    done(&root.delete("/access/users/ann@pve"));
    is(&root.delete("/access/users/ann@pve"), 500, "no such user ('ann@pve')\n");
    is(&root.delete("/access/groups/none"), 500, "delete group failed: group 'none' does not exist\n");
}

#[test]
fn roles_and_lists_are_made_read_changed_and_deleted() {
    let (_folder, _server, root) = lab(Release::V9);
    done(&root.post("/access/users", &[("userid", "ann@pve")]));
    done(&root.post("/access/roles", &[("roleid", "Mine"), ("privs", "VM.Audit,VM.PowerMgmt")]));
    let again = root.post("/access/roles", &[("roleid", "Mine"), ("privs", "VM.Audit")]);
    is(&again, 500, "create role failed: role 'Mine' already exists\n");
    let unknown = root.post("/access/roles", &[("roleid", "Other"), ("privs", "VM.Fly")]);
    assert_eq!(unknown.body["errors"]["privs"], "invalid format - invalid privilege 'VM.Fly'\n");
    let reserved = root.post("/access/roles", &[("roleid", "PVEx"), ("privs", "VM.Audit")]);
    let text = "cannot use role ID starting with the (case-insensitive) 'PVE' namespace";
    assert_eq!(reserved.body["errors"]["roleid"], text);
    done(&root.put("/access/roles/Mine", &[("append", "1"), ("privs", "VM.Console")]));
    let built_in = root.put("/access/roles/PVEAuditor", &[("privs", "VM.Audit")]);
    is(&built_in, 500, "auto-generated role 'PVEAuditor' cannot be modified\n");

    let acl = |path: &str, role: &str, user: &str| {
        root.put("/access/acl", &[("path", path), ("roles", role), ("users", user), ("propagate", "0")])
    };
    done(&acl("/vms/999999", "Mine", "ann@pve"));
    let lines = root.get("/access/acl").body["data"].clone();
    let line = json!({"path": "/vms/999999", "propagate": 0, "roleid": "Mine", "type": "user", "ugid": "ann@pve"});
    assert!(lines.as_array().unwrap().contains(&line), "{lines}");
    assert_eq!(acl("/bogus/path", "Mine", "ann@pve").body["errors"]["path"], "invalid ACL path '/bogus/path'");
    is(&acl("/vms", "None", "ann@pve"), 500, "ACL update failed: role 'None' does not exist\n");
    is(&acl("/vms", "Mine", "bob@pve"), 500, "ACL update failed: user 'bob@pve' does not exist\n");
    let nobody = root.put("/access/acl", &[("path", "/vms"), ("roles", "Mine")]);
    assert_eq!(nobody.body["errors"]["users"], "either 'users', 'groups' or 'tokens' is required.");
    let own = root.get("/access/permissions?path=/vms/999999&userid=ann@pve").body["data"].clone();
    assert_eq!(own, json!({"/vms/999999": {"VM.Audit": 0, "VM.Console": 0, "VM.PowerMgmt": 0}}));
    done(&root.delete("/access/roles/Mine"));
    is(&root.delete("/access/roles/Mine"), 500, "delete role failed: role 'Mine' does not exist\n");
    assert!(!root.get("/access/acl").body["data"].to_string().contains("Mine"));
}

#[test]
fn a_user_logs_in_and_has_no_rights_until_they_are_given() {
    let (_folder, server, root) = lab(Release::V9);
    done(&root.post("/access/users", &[("userid", "ann@pve"), ("password", "long-enough-1")]));
    let log_in = |password: &str| root.post("/access/ticket", &[("username", "ann@pve"), ("password", password)]);
    let ticket = log_in("long-enough-1").body["data"].clone();
    let none = json!({"access": {}, "dc": {}, "mapping": {}, "nodes": {}, "sdn": {}, "storage": {}, "vms": {}});
    assert_eq!((&ticket["username"], &ticket["cap"]), (&json!("ann@pve"), &none));
    is(&log_in("wrong"), 401, "authentication failure\n");
    is(&log_in(&server.password), 401, "authentication failure\n");
    done(&root.put("/access/users/ann@pve", &[("enable", "0")]));
    is(&log_in("long-enough-1"), 401, "authentication failure\n");
    let password = root.put("/access/password", &[("userid", "ann@pve"), ("password", "another-1")]);
    let text = "Permission check failed (URI '/access/password' not available with API token, need proper ticket.\n)\n";
    is(&password, 403, text);
}

#[test]
fn a_separated_token_has_only_what_it_is_given_and_ends_with_its_user() {
    let (_folder, server, root) = lab(Release::V9);
    let ann = user(&server, &root, "VM.Audit,VM.PowerMgmt");
    let (id, _) = ann.token.split_once('!').unwrap();
    let made = root.post(&format!("/access/users/{id}/token/t2"), &[]).body["data"].clone();
    assert_eq!((&made["info"]["privsep"], &made["full-tokenid"]), (&json!(1), &json!(format!("{id}!t2"))));
    let mut token = Client::new(&server);
    token.token = format!("{id}!t2={}", made["value"].as_str().unwrap());
    root.create("100", &[]);
    let config = |client: &Client| client.get("/nodes/pve1/qemu/100/config");
    assert_eq!(config(&ann).status, 200);
    is(&config(&token), 403, "Permission check failed (/vms/100, VM.Audit)\n");
    assert_eq!(token.get("/cluster/resources?type=vm").body["data"], json!([]));
    let line = [("path", "/vms/100"), ("tokens", &format!("{id}!t2")), ("roles", "PVEVMAdmin")];
    done(&root.put("/access/acl", &line));
    assert_eq!(config(&token).status, 200);
    let memory = token.put("/nodes/pve1/qemu/100/config", &[("memory", "64")]);
    let any = "VM.Config.Disk|VM.Config.CDROM|VM.Config.CPU|VM.Config.Memory|VM.Config.Network|VM.Config.HWType|\
               VM.Config.Options|VM.Config.Cloudinit";
    is(&memory, 403, &format!("Permission check failed (/vms/100, {any})\n"));
    done(&root.delete(&format!("/access/users/{id}")));
    assert_eq!(config(&token).status, 401);
}

/// Each option asks for its own privilege; the texts name path and privilege.
#[test]
fn options_ask_for_their_privileges() {
    for release in [Release::V8, Release::V9] {
        let (_folder, server, root) = lab(release);
        root.create("100", &[("scsi0", "local:1"), ("net0", "virtio,bridge=vmbr0"), ("ide2", "none,media=cdrom")]);
        let audit = user(&server, &root, "VM.Audit,VM.Config.CDROM");
        let all = "VM.Audit,VM.Config.CPU,VM.Config.Disk,VM.Config.HWType,VM.Config.Memory,VM.Config.Network,\
                   VM.Config.Options";
        let more = user(&server, &root, all);
        let put = |client: &Client, key: &str, value: &str| client.put("/nodes/pve1/qemu/100/config", &[(key, value)]);
        for (key, value, privilege) in [
            ("memory", "64", "VM.Config.Memory"),
            ("cores", "2", "VM.Config.CPU"),
            ("scsi1", "local:1", "VM.Config.Disk"),
            ("boot", "order=scsi0", "VM.Config.Disk"),
            ("delete", "scsi0", "VM.Config.Disk"),
            ("net0", "virtio,bridge=vmbr0", "VM.Config.Network"),
            ("tags", "a", "VM.Config.Options"),
            ("onboot", "1", "VM.Config.Options"),
            ("scsihw", "lsi", "VM.Config.HWType"),
            ("serial0", "socket", "VM.Config.HWType"),
            ("ciuser", "x", "VM.Config.Cloudinit|VM.Config.Network"),
        ] {
            let text = format!("Permission check failed (/vms/100, {privilege})\n");
            is(&put(&audit, key, value), 403, &text);
        }
        assert_eq!(put(&audit, "ide2", "none,media=cdrom").status, 200);
        is(&put(&more, "scsi1", "local:1"), 403, "Permission check failed (/storage/local, Datastore.AllocateSpace)\n");
        let bridge = "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)\n";
        is(&put(&more, "net0", "virtio,bridge=vmbr0"), 403, bridge);
        is(&put(&more, "hostpci0", "mapping=gpu"), 403, "Permission check failed (/mapping/pci/gpu, Mapping.Use)\n");
        is(&put(&more, "args", "-s"), 500, "only root can set 'args' config\n");
        assert_eq!(put(&more, "memory", "64").status, 200);
    }
}

#[test]
fn methods_ask_for_theirs() {
    let (_folder, server, root) = lab(Release::V9);
    root.create("100", &[("scsi0", "local:1")]);
    let audit = user(&server, &root, "VM.Audit");
    is(&audit.get("/nodes/pve1/status"), 403, "Permission check failed (/nodes/pve1, Sys.Audit)\n");
    let start = audit.post("/nodes/pve1/qemu/100/status/start", &[]);
    is(&start, 403, "Permission check failed (/vms/100, VM.PowerMgmt)\n");
    is(&audit.post("/nodes/pve1/qemu", &[("vmid", "101")]), 403, "Permission check failed\n");
    let clone = audit.post("/nodes/pve1/qemu/100/clone", &[("newid", "101")]);
    is(&clone, 403, "Permission check failed (/vms/100, VM.Clone)\n");
    is(&audit.delete("/nodes/pve1/qemu/100"), 403, "Permission check failed (/vms/100, VM.Allocate)\n");
    let content = "Permission check failed (/storage/local, Datastore.Audit|Datastore.AllocateSpace)\n";
    is(&audit.get("/nodes/pve1/storage/local/content"), 403, content);
    let disk = "/nodes/pve1/storage/local/content/local:100/vm-100-disk-0.raw";
    is(&audit.delete(disk), 403, "Permission check failed (/storage/local, Datastore.Allocate)\n");
    assert_eq!(audit.get("/storage").body["data"], json!([]));
    let acl = audit.put("/access/acl", &[("path", "/vms"), ("roles", "PVEAdmin"), ("users", "root@pam")]);
    is(&acl, 403, "Permission check failed (/vms, Permissions.Modify)\n");
    let stopped = root.post("/nodes/pve1/qemu/100/status/stop", &[]).body["data"].as_str().unwrap().to_owned();
    let log = audit.get(&format!("/nodes/pve1/tasks/{stopped}/log"));
    is(&log, 403, "Permission check failed (/nodes/pve1, Sys.Audit)\n");
    assert_eq!(audit.get("/nodes/pve1/tasks").body["data"], json!([]));
    assert_eq!(audit.get("/cluster/nextid").status, 200);
}

/// Plays a guest's agent that has one file.
fn agent(listener: UnixListener, content: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let lines = BufReader::new(stream.try_clone().expect("a socket can be cloned")).lines();
            for line in lines.map_while(Result::ok) {
                let asked: Value = serde_json::from_str(&line).expect("the server sends JSON");
                let answer = match asked["execute"].as_str() {
                    Some("guest-sync") => json!({"return": asked["arguments"]["id"]}),
                    Some("guest-file-open") if asked["arguments"]["path"] == "/etc/motd" => json!({"return": 7}),
                    Some("guest-file-open") => json!({"error": {"desc": "failed to open file: No such file"}}),
                    Some("guest-file-read") => {
                        json!({"return": {"count": content.len(), "eof": true, "buf-b64": content}})
                    }
                    _ => json!({"return": {}}),
                };
                let _ = stream.write_all(format!("{answer}\n").as_bytes());
            }
        }
    });
}

#[test]
fn a_file_is_read_through_the_agent() {
    for (release, privilege) in [(Release::V8, "VM.Monitor"), (Release::V9, "VM.GuestAgent.FileRead")] {
        let (folder, server, root) = lab(release);
        root.create("100", &[("agent", "1")]);
        let file = "/nodes/pve1/qemu/100/agent/file-read?file=/etc/motd";
        is(&root.get(file), 500, "VM 100 is not running\n");
        root.end(&root.post("/nodes/pve1/qemu/100/status/start", &[]));
        is(&root.get(file), 500, "QEMU guest agent is not running\n");
        agent(UnixListener::bind(folder.path().join("run/100.qga")).unwrap(), "aGVsbG8K");
        let reader = user(&server, &root, privilege);
        assert_eq!(reader.get(file).body["data"], json!({"content": "hello\n", "bytes-read": 6}));
        let other = reader.get("/nodes/pve1/qemu/100/agent/file-read?file=/etc/none");
        is(&other, 500, "Agent error: failed to open file: No such file\n");
        let audit = user(&server, &root, "VM.Audit").get(file);
        assert_eq!(audit.status, 403, "{}", audit.body);
    }
}
