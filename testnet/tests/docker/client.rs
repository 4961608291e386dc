//! Single requests of people in cars, from where cars are.

use blosm_testnet::Testnet;
use blosm_testnet::car::{NODE, SESSION};
use blosm_testnet::config::GATEWAY_PORT;
use reqwest::Method;

/// What a gateway has answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Who served.
    pub(crate) node: Option<String>,
    /// The token of a session that was opened.
    pub(crate) token: Option<String>,
    pub(crate) body: String,
}

impl Answer {
    /// It must be a refusal with that status whose body is one line with all of `parts`.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, parts: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.body.trim_end().lines().count(), 1, "{self:?}");
        for part in parts {
            assert!(self.body.contains(part), "{part:?} is not in {self:?}");
        }
    }
}

/// One request to a host's gateway, with a session's token if there is one.
pub(crate) async fn ask(
    testnet: &Testnet,
    method: Method,
    host: usize,
    path: &str,
    token: Option<&str>,
) -> Answer {
    let address = testnet.state().host(host).unwrap().address;
    let url = format!("http://{address}:{GATEWAY_PORT}{path}");
    let token = token.map(str::to_owned);
    let job = move || async move {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut request = client.request(method, url).header("x-number", 1);
        if let Some(token) = token {
            request = request.header(SESSION, token);
        }
        let response = request.send().await?;
        let text = |name| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        Ok::<_, reqwest::Error>(Answer {
            status: response.status().as_u16(),
            node: text(NODE),
            token: text(SESSION),
            body: response.text().await?,
        })
    };
    testnet.state().road().cars().run(job).await.unwrap().unwrap()
}
