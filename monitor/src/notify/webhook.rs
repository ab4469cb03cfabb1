//! A receiver that takes the message as JSON, as it is, and signed where it has a key.

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use crate::notify::config::SinkConfig;
use crate::notify::post::Post;
use crate::notify::secret::{self, Environment, Places};
use crate::notify::{Delivery, Outcome, Problem};

pub(super) struct Webhook {
    post: Post,
    secret: Option<Vec<u8>>,
}

impl Webhook {
    pub(super) fn build(config: &SinkConfig, env: Environment<'_>) -> Result<Self, Problem> {
        let post = Post::build(config, env)?;
        let secret = secret::read(
            Places {
                file_key: "secret_file",
                file: config.secret_file.as_deref(),
                env_key: "secret_env",
                env: config.secret_env.as_deref(),
            },
            env,
        )?;
        Ok(Self { post, secret })
    }

    /// See [`Post::reach`].
    pub(super) async fn reach(&self) -> Result<String, String> {
        self.post.reach().await
    }

    /// Any 2xx accepts. What is answered beyond that and `Retry-After` is not read.
    pub(super) async fn deliver(&self, delivery: &Delivery) -> Outcome {
        let body = match delivery.json() {
            Ok(body) => body,
            Err(outcome) => return outcome,
        };
        let mut key = String::new();
        monitor_core::ids::percent_encode_into(&mut key, &delivery.message.key());
        let mut headers = HeaderMap::new();
        let mut put = |name, value: String| {
            let value = HeaderValue::try_from(value).expect("safe text is a header's value");
            headers.insert(HeaderName::from_static(name), value);
        };
        put("idempotency-key", key);
        if let Some(secret) = &self.secret {
            put("x-edgewatch-signature", sign(secret, body.as_bytes()));
        }
        match self.post.send(headers, body).await {
            Ok(response) if response.status().is_success() => Outcome::Accepted,
            Ok(response) => self.post.refused(&response),
            Err(outcome) => outcome,
        }
    }
}

/// `sha256=<hex HMAC-SHA256 of the body>`.
fn sign(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(body);
    let mut signature = String::from("sha256=");
    for byte in mac.finalize().into_bytes() {
        for digit in [byte >> 4, byte & 15] {
            signature.push(char::from_digit(u32::from(digit), 16).expect("below 16"));
        }
    }
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_known_one() {
        // RFC 4231, test case 2.
        assert_eq!(
            sign(b"Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
