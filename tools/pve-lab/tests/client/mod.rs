//! A small client for the tests: one request, its status and body.

#![allow(clippy::unwrap_used, reason = "a test's helper may panic as the test itself does")]
#![allow(dead_code, reason = "each test's program uses its part")]

use std::time::{Duration, Instant};

use pve_lab::testing::ApiOnly;
use serde_json::Value;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

pub struct Client {
    agent: ureq::Agent,
    base: String,
    pub token: String,
}

pub struct Reply {
    pub status: u16,
    pub body: Value,
}

impl Client {
    pub fn new(server: &ApiOnly) -> Self {
        let authority = Certificate::from_pem(server.ca_pem.as_bytes()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::new_with_certs(&[authority]))
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)));
        let base = format!("{}/api2/json", server.url);
        Self { agent: config.build().into(), base, token: server.root_token.clone() }
    }

    fn authorization(&self) -> String {
        format!("PVEAPIToken={}", self.token)
    }

    pub fn get(&self, path: &str) -> Reply {
        let request = self.agent.get(format!("{}{path}", self.base));
        reply(request.header("authorization", self.authorization()).call().unwrap())
    }

    pub fn delete(&self, path: &str) -> Reply {
        let request = self.agent.delete(format!("{}{path}", self.base));
        reply(request.header("authorization", self.authorization()).call().unwrap())
    }

    pub fn post(&self, path: &str, form: &[(&str, &str)]) -> Reply {
        let request = self.agent.post(format!("{}{path}", self.base));
        reply(request.header("authorization", self.authorization()).send_form(form.iter().copied()).unwrap())
    }

    pub fn put(&self, path: &str, form: &[(&str, &str)]) -> Reply {
        let request = self.agent.put(format!("{}{path}", self.base));
        reply(request.header("authorization", self.authorization()).send_form(form.iter().copied()).unwrap())
    }

    pub fn upload(&self, path: &str, fields: &[(&str, &str)], name: &str, bytes: &[u8]) -> Reply {
        let mut body = Vec::new();
        for (key, value) in fields {
            let part = format!("--B\r\nContent-Disposition: form-data; name=\"{key}\"\r\n\r\n{value}\r\n");
            body.extend(part.bytes());
        }
        let head = format!("--B\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{name}\"\r\n\r\n");
        body.extend(head.bytes());
        body.extend(bytes);
        body.extend(b"\r\n--B--\r\n");
        let request = self.agent.post(format!("{}{path}", self.base)).header("authorization", self.authorization());
        reply(request.content_type("multipart/form-data; boundary=B").send(&body[..]).unwrap())
    }

    /// Waits for the task that a reply names and returns its exit status.
    pub fn end(&self, reply: &Reply) -> String {
        let upid = reply.body["data"].as_str().unwrap_or_else(|| panic!("no task in {}", reply.body));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            let status = self.get(&format!("/nodes/pve1/tasks/{upid}/status")).body;
            if status["data"]["status"] == "stopped" {
                return status["data"]["exitstatus"].as_str().unwrap().to_owned();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{upid} did not end");
    }

    /// Sends a request that must end in a task that ends well.
    pub fn create(&self, vmid: &str, options: &[(&str, &str)]) {
        let form = [&[("vmid", vmid)], options].concat();
        let created = self.post("/nodes/pve1/qemu", &form);
        assert_eq!(self.end(&created), "OK", "{}", created.body);
    }

    pub fn config(&self, vmid: &str) -> Value {
        self.get(&format!("/nodes/pve1/qemu/{vmid}/config")).body["data"].clone()
    }
}

fn reply(mut response: ureq::http::Response<ureq::Body>) -> Reply {
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().unwrap();
    Reply { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}
