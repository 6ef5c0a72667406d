//! The beginning of RFB (RFC 6143, section 7.1 and 7.2): towards the browser as a server that asks for a password,
//! towards the node as a client that needs none. What comes after goes through as it is.

use des::Des;
use des::cipher::{BlockEncrypt as _, KeyInit as _};
use subtle::ConstantTimeEq as _;

use super::relay::{End, Side};

/// What both sides say first.
const VERSION: &[u8; 12] = b"RFB 003.008\n";
/// An older version that has the same handshake, but no reason of a refusal.
const VERSION_BEFORE: &[u8; 12] = b"RFB 003.007\n";
/// Security types.
const NO_SECURITY: u8 = 1;
const VNC_SECURITY: u8 = 2;
/// Characters of a password that count in RFB.
pub const PASSWORD_CHARS: usize = 8;

const WRONG_PASSWORD: &str = "The password is not the one that was told with this console.";
const UNKNOWN_VERSION: End = End::Misused("this is not RFB 3.7 or 3.8");

/// Lets whoever looks in when they know the password.
///
/// # Errors
/// Why the console ends.
pub async fn admit(browser: &mut impl Side, password: &str, challenge: [u8; 16]) -> Result<(), End> {
    browser.send(VERSION).await?;
    let version = browser.take(VERSION.len()).await?;
    let tells_reason = &version[..] == VERSION;
    if !tells_reason && &version[..] != VERSION_BEFORE {
        return Err(UNKNOWN_VERSION);
    }
    browser.send(&[1, VNC_SECURITY]).await?;
    if browser.take(1).await?[..] != [VNC_SECURITY] {
        return Err(End::Misused("this kind of security was not offered"));
    }
    browser.send(&challenge).await?;
    let response = browser.take(challenge.len()).await?;
    if bool::from(response[..].ct_eq(&answer(password, challenge))) {
        return browser.send(&0_u32.to_be_bytes()).await;
    }
    let mut refusal = 1_u32.to_be_bytes().to_vec();
    if tells_reason {
        refusal.extend((WRONG_PASSWORD.len() as u32).to_be_bytes());
        refusal.extend(WRONG_PASSWORD.as_bytes());
    }
    browser.send(&refusal).await?;
    Err(End::Misused("wrong password"))
}

/// Enters a console of a node, which asks nobody who shows the agent's ticket for a password.
///
/// # Errors
/// Why the console ends.
pub async fn enter(node: &mut impl Side) -> Result<(), End> {
    if &node.take(VERSION.len()).await?[..] != VERSION {
        return Err(UNKNOWN_VERSION);
    }
    node.send(VERSION).await?;
    let offered = usize::from(node.take(1).await?[0]);
    if !node.take(offered).await?.contains(&NO_SECURITY) {
        return Err(End::Failed("the node asks for a password".to_owned()));
    }
    node.send(&[NO_SECURITY]).await?;
    match &node.take(4).await?[..] {
        [0, 0, 0, 0] => Ok(()),
        _ => Err(End::Failed("the node refused".to_owned())),
    }
}

/// What a client that knows the password answers to a challenge.
pub fn answer(password: &str, challenge: [u8; 16]) -> [u8; 16] {
    let mut key = [0; PASSWORD_CHARS];
    // Each byte of the key has its bits the other way round.
    key.iter_mut().zip(password.bytes()).for_each(|(byte, character)| *byte = character.reverse_bits());
    let des = Des::new(&key.into());
    let mut answer = challenge;
    answer.chunks_exact_mut(8).for_each(|block| des.encrypt_block(block.into()));
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;

    use super::*;

    /// A side that says what it was given, and notes what it hears.
    #[derive(Default)]
    struct Script {
        says: VecDeque<u8>,
        heard: Vec<u8>,
    }

    impl Side for Script {
        async fn take(&mut self, count: usize) -> Result<Bytes, End> {
            if self.says.len() < count {
                return Err(End::Gone);
            }
            Ok(self.says.drain(..count).collect())
        }

        async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
            self.heard.extend(bytes);
            Ok(())
        }
    }

    fn says(parts: &[&[u8]]) -> Script {
        Script { says: parts.concat().into(), heard: Vec::new() }
    }

    const CHALLENGE: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn a_challenge_is_answered_as_every_viewer_does() {
        // printf 0123456789abcdef | openssl enc -des-ecb -nopad -K 0e86ceceeef64e26: the bits of “password” reversed.
        assert_eq!(hex::encode(answer("password", CHALLENGE)), "5645abeb5f1e6475e8feb11beb66ea19");
        assert_eq!(answer("password", CHALLENGE), answer("password and more", CHALLENGE));
    }

    #[tokio::test]
    async fn who_knows_the_password_is_let_in() {
        for version in [VERSION, VERSION_BEFORE] {
            let mut browser = says(&[version, &[VNC_SECURITY], &answer("sesam123", CHALLENGE)]);
            assert!(admit(&mut browser, "sesam123", CHALLENGE).await.is_ok());
            assert_eq!(browser.heard, [&VERSION[..], &[1, 2], &CHALLENGE, &[0; 4]].concat());
        }
    }

    #[tokio::test]
    async fn who_does_not_is_told_so_and_sees_nothing() {
        let mut browser = says(&[VERSION, &[VNC_SECURITY], &answer("sesam124", CHALLENGE)]);
        assert!(matches!(admit(&mut browser, "sesam123", CHALLENGE).await, Err(End::Misused(_))));
        assert!(browser.heard.ends_with(WRONG_PASSWORD.as_bytes()));
        for wrong in [says(&[b"RFB 003.003\n"]), says(&[VERSION, &[NO_SECURITY]]), says(&[b"GET / HTTP/1.1"])]
        {
            let mut browser = wrong;
            assert!(matches!(admit(&mut browser, "sesam123", CHALLENGE).await, Err(End::Misused(_))));
            assert!(!browser.heard.ends_with(&[0; 4]));
        }
    }

    #[tokio::test]
    async fn a_node_that_asks_for_nothing_is_entered() {
        let mut node = says(&[VERSION, &[2, VNC_SECURITY, NO_SECURITY], &[0; 4]]);
        assert!(enter(&mut node).await.is_ok());
        assert_eq!(node.heard, [&VERSION[..], &[NO_SECURITY]].concat());
        for wrong in [says(&[b"RFB 003.003\n"]), says(&[VERSION, &[1, VNC_SECURITY]])] {
            let mut node = wrong;
            assert!(enter(&mut node).await.is_err());
        }
    }
}
