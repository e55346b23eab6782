//! A browser without a screen: cookies, forms and their tokens.

use std::collections::HashMap;

/// Keeps cookies, and sends the token that forms carry.
pub struct Client {
    http: reqwest::Client,
    base: String,
    cookies: HashMap<String, String>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Where it sends the browser.
    pub location: Option<String>,
    /// Body.
    pub body: String,
}

impl Client {
    /// For `http://127.0.0.1:PORT`.
    pub fn new(base: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        Self { http: http.build().expect("a client"), base: base.to_owned(), cookies: HashMap::new() }
    }

    /// Reads a page.
    pub async fn get(&mut self, path: &str) -> Answer {
        let request = self.http.get(format!("{}{path}", self.base));
        self.send(request).await
    }

    /// Reads the page at `page`, then sends its form's token with the fields to `action`.
    pub async fn submit(&mut self, page: &str, action: &str, fields: &[(&str, &str)]) -> Answer {
        let form = self.get(page).await;
        let token = form_token(&form.body).unwrap_or_default();
        let mut all = vec![("form_token", token.as_str())];
        all.extend_from_slice(fields);
        self.post(action, &all).await
    }

    /// Sends fields as they are.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("origin", &self.base)
            .body(body.join("&"));
        self.send(request).await
    }

    /// Makes the first administrator.
    pub async fn set_up(&mut self, setup_token: &str, name: &str, password: &str) -> Answer {
        let fields =
            [("setup_token", setup_token), ("user", name), ("password", password), ("password_again", password)];
        self.submit("/setup", "/setup", &fields).await
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let response = request.header("cookie", cookies.join("; ")).send().await.expect("the server answers");
        for line in response.headers().get_all("set-cookie") {
            let pair = line.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.cookies.insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
        let location = response.headers().get("location").and_then(|it| it.to_str().ok()).map(str::to_owned);
        Answer { status: response.status().as_u16(), location, body: response.text().await.expect("a whole body") }
    }
}

/// Value of the first hidden field named `form_token`.
fn form_token(page: &str) -> Option<String> {
    let field = page.split("name=\"form_token\"").nth(1)?;
    let value = field.split("value=\"").nth(1)?;
    value.split('"').next().map(str::to_owned)
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(["%".to_owned(), format!("{byte:02X}")]);
        }
    }
    encoded
}
