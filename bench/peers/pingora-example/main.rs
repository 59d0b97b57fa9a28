//! `pingora-example LISTEN-PORT ORIGIN-PORT THREADS`: the smallest HTTP proxy on the Pingora library that tells the origin
//! who the client is.

use async_trait::async_trait;
use pingora::http::RequestHeader;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Proxy {
    origin: u16,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(("127.0.0.1", self.origin), false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        let client = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let before = request.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let mut addresses: Vec<String> = before.map(String::from).collect();
        addresses.extend(client.map(|address| address.to_string()));
        request.insert_header("X-Forwarded-For", addresses.join(", "))?;
        request.insert_header("X-Forwarded-Proto", "http")
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, origin, threads] = match args.iter().map(|arg| arg.parse::<u16>()).collect::<Vec<_>>()[..] {
        [Ok(listen), Ok(origin), Ok(threads)] => [listen, origin, threads],
        _ => {
            println!("pingora-example {}", env!("CARGO_PKG_VERSION"));
            return;
        }
    };
    let configuration = ServerConf {
        threads: usize::from(threads),
        upstream_keepalive_pool_size: 1024,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Proxy { origin });
    service.add_tcp(&format!("127.0.0.1:{listen}"));
    server.add_service(service);
    server.run_forever();
}
