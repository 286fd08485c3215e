//! An operator's authority as `fedbasin-server pki` makes it, and who calls with what it signed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fedbasin_proto::v1::{self, fed_basin_client::FedBasinClient};
use fedbasin_tests::{Admin, Options, PATIENCE, Server, client_binary, server_binary};
use serde_json::json;
use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// An authority, the server's certificate, and what else its folder comes to hold.
pub(super) struct Pki {
    pub(super) folder: tempfile::TempDir,
}

/// A program's whole answer, where all went well.
pub(super) fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Pki {
    pub(super) fn new() -> Self {
        let pki = Self { folder: tempfile::tempdir().expect("a folder") };
        let hosts = ["--host", "localhost", "--host", "127.0.0.1"];
        let text = said(&pki.pki("init", &hosts));
        assert!(text.contains("[tls]") && text.contains("client_ca_file"), "{text}");
        pki
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("pki").join(name)
    }

    pub(super) fn pki(&self, command: &str, arguments: &[&str]) -> Output {
        let mut program = Command::new(server_binary());
        program.args(["pki", command, "--dir"]).arg(self.path("")).args(arguments);
        program.output().expect("it runs")
    }

    /// A kit for a site; gives its folder and the certificate's fingerprint.
    pub(super) fn issue(&self, site: &str, server: &str, more: &[&str]) -> (PathBuf, String) {
        let folder = self.folder.path().join(format!("kit-{site}"));
        let output = folder.to_str().expect("UTF-8");
        let text =
            said(&self.pki("issue", &[&[site, "--server", server, "--output", output], more].concat()));
        let print =
            text.split("certificate ").nth(1).and_then(|rest| rest.split(',').next()).expect("a fingerprint");
        (folder, print.to_owned())
    }

    pub(super) fn options(&self, required: bool) -> Options {
        let certificates = if required { "required" } else { "accepted" };
        Options {
            tls: Some((self.path("server.pem"), self.path("server.key"))),
            more_tls: format!(
                "client_ca_file = {:?}\nclient_certificates = \"{certificates}\"\n",
                self.path("authority.pem")
            ),
            ..Options::default()
        }
    }

    pub(super) fn authority(&self) -> String {
        fs::read_to_string(self.path("authority.pem")).expect("a file")
    }

    pub(super) fn admin(&self, server: &Server) -> Admin {
        server.admin().trusting(&self.authority())
    }

    /// The stub of whoever shows these files, or nothing.
    pub(super) fn stub(&self, server: &Server, shown: Option<(&Path, &Path)>) -> FedBasinClient<Channel> {
        let authority = Certificate::from_pem(self.authority());
        let mut tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost");
        if let Some((cert, key)) = shown {
            let read = |path| fs::read(path).expect("a file");
            tls = tls.identity(Identity::from_pem(read(cert), read(key)));
        }
        let endpoint = Endpoint::from_shared(server.grpc.clone()).expect("a URL").connect_timeout(PATIENCE);
        FedBasinClient::new(endpoint.tls_config(tls).expect("settings").connect_lazy())
    }

    pub(super) fn kit_stub(&self, server: &Server, kit: &Path) -> FedBasinClient<Channel> {
        self.stub(server, Some((&kit.join("site.pem"), &kit.join("site.key"))))
    }
}

pub(super) fn client(arguments: &[&str]) -> Output {
    let mut program = Command::new(client_binary());
    // What a shell may still hold from before: the kit goes before it.
    program.env_remove("FEDBASIN_TOKEN").env("FEDBASIN_SERVER", "http://127.0.0.1:1").args(arguments);
    program.output().expect("it runs")
}

pub(super) fn run(admin: &Admin, sites: &[&str]) -> String {
    admin.create_run(&json!({
        "id": "pilot", "spec": null, "strategy": "mean", "cohort": sites,
        "policy": { "rounds": 1, "quorum": sites.len(), "deadline_seconds": 600 },
    }))
}

pub(super) async fn list(stub: &mut FedBasinClient<Channel>, token: Option<&str>) -> Result<usize, Status> {
    let mut request = tonic::Request::new(v1::ListRunsRequest {});
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    }
    Ok(stub.list_runs(request).await?.into_inner().runs.len())
}
