//! What a site is told when the address is not the right one, through the binary.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
};

/// Answers every connection by `answer`; returns `127.0.0.1:PORT`. Ends with the test's process.
fn listen(answer: fn(TcpStream) -> std::io::Result<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

/// HTTP/2, 404 and a problem document: what the server's HTTP port says to a call of gRPC.
fn http_port(mut stream: TcpStream) -> std::io::Result<()> {
    let (settings, headers, data) = (4, 1, 0);
    stream.write_all(&frame(settings, 0, 0, &[]))?;
    stream.read_exact(&mut [0; 24])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = usize::from(head[1]) * 256 + usize::from(head[2]);
        stream.read_exact(&mut vec![0; length])?;
        if head[3] == headers {
            // 0x8d is ":status: 404" in HPACK's static table; 0x0f 0x10 is "content-type", spelt out.
            let fields = [&[0x8d, 0x0f, 0x10, 24][..], b"application/problem+json"].concat();
            stream.write_all(&frame(headers, 4, head[8], &fields))?;
            stream.write_all(&frame(data, 1, head[8], br#"{"code":"not-found"}"#))?;
        }
    }
}

/// What anything without TLS says to a handshake.
fn clear_text(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new()).map(|_| ())
}

/// What fails with one line, for each way to call: (standard output, standard error).
fn fails(server: &str, patience: &str) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let calls = [&["status"][..], &["run", "--run", "pilot", "--train", "true"]];
    let said = calls.map(|call| {
        let output = Command::new(env!("CARGO_BIN_EXE_fedbasin"))
            .arg("site")
            .args(call)
            .args(["--server", server, "--patience-seconds", patience])
            .env("FEDBASIN_TOKEN", "fbs_x")
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    });
    said.into()
}

#[test]
fn the_http_port_is_found_out_at_once() {
    for (said, error) in fails(&format!("http://{}", listen(http_port)), "600") {
        assert!(error.contains("is this the gRPC port?"), "{error}");
        assert_eq!(said, "", "it was tried again");
    }
}

#[test]
fn https_to_clear_text_is_found_out_at_once() {
    for (said, error) in fails(&format!("https://{}", listen(clear_text)), "600") {
        assert!(error.contains("speaks clear text") && error.contains("http://"), "{error}");
        assert_eq!(said, "", "it was tried again");
    }
}

#[test]
fn https_to_a_clear_http_port_is_found_out_too() {
    let output = Command::new(env!("CARGO_BIN_EXE_fedbasin"))
        .args(["admin", "sites", "--server", &format!("https://{}", listen(clear_text))])
        .env("FEDBASIN_ADMIN_TOKEN", "fba_x")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("speaks clear text"), "{error}");
}

#[test]
fn a_port_that_speaks_no_http2_is_asked_about_when_patience_is_spent() {
    for (_, error) in fails(&format!("http://{}", listen(clear_text)), "0") {
        assert!(error.contains("gave up") && error.contains("the gRPC port? https://?"), "{error}");
    }
}

#[test]
fn an_error_names_the_address_that_was_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for (said, error) in fails(&server, "0") {
        assert!(error.contains("gave up") && error.contains(&format!(" at {server}: ")), "{error}");
        assert!(said.is_empty() || said.contains(&server), "{said}");
    }
    // Whoever waits is told what for.
    for (said, _) in fails(&server, "1") {
        assert!(said.contains(&format!("{server} does not answer, trying again")), "{said}");
    }
    let server = format!("http://{}", listen(http_port));
    for (_, error) in fails(&server, "600") {
        assert!(error.contains(&format!(" at {server}: ")), "{error}");
    }
}
