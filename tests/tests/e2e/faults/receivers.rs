//! Receivers that misbehave in every way: how often each is tried, and that each gets its message in
//! the end, the same one at every try.

use std::time::Duration;

use tests::agent::{RETRIED, Setup};
use tests::eventually;
use tests::receiver::{Answer, Manner, Request};
use tests::traffic::{Protocol, edge, nameless};

use crate::shop::{Shop, is_about, is_of};

/// What the receiver is given to think about: its messages time out after this.
const TIMEOUT: &str = "timeout = \"2s\"\n";

/// How a receiver treats a message, and which tries that makes.
struct Case {
    what: &'static str,
    manners: &'static [Manner],
    answers: &'static [Answer],
    /// The statuses of all tries, in order.
    tries: &'static [u16],
}

const fn status(status: u16) -> Answer {
    Answer { status, retry_after_s: None }
}

const UNANSWERED: u16 = Request::UNANSWERED;

const CASES: [Case; 11] = [
    Case { what: "takes it", manners: &[], answers: &[status(204)], tries: &[204] },
    Case { what: "takes it with a body", manners: &[], answers: &[status(200)], tries: &[200] },
    Case {
        what: "takes its time",
        manners: &[Manner::Slow(Duration::from_secs(1))],
        answers: &[],
        tries: &[204],
    },
    Case {
        what: "never ends its answer",
        manners: &[Manner::Endless],
        answers: &[],
        tries: &[200],
    },
    Case {
        what: "does not answer",
        manners: &[Manner::Holds],
        answers: &[],
        tries: &[UNANSWERED, 204],
    },
    Case {
        what: "hangs up",
        manners: &[Manner::Closes, Manner::Closes],
        answers: &[],
        tries: &[UNANSWERED, UNANSWERED, 204],
    },
    Case { what: "resets", manners: &[Manner::Resets], answers: &[], tries: &[UNANSWERED, 204] },
    Case {
        what: "sends it elsewhere",
        manners: &[Manner::Redirects],
        answers: &[],
        tries: &[307, 204],
    },
    Case {
        what: "is broken",
        manners: &[],
        answers: &[status(500), status(503)],
        tries: &[500, 503, 204],
    },
    Case {
        what: "is gone for good, it says",
        manners: &[],
        answers: &[status(410)],
        tries: &[410, 204],
    },
    Case {
        what: "asks for patience",
        manners: &[],
        answers: &[Answer { status: 429, retry_after_s: Some(3) }],
        tries: &[429, 204],
    },
];

#[test]
fn whatever_a_receiver_does_each_message_arrives_after_as_many_tries_as_it_takes() {
    let mut shop = Shop::undistracted(&Setup::mode("learn"), TIMEOUT);
    for (case, port) in CASES.iter().zip(30_000..) {
        let before = shop.receiver.requests().len();
        shop.receiver.behaves(case.manners);
        shop.receiver.answers(case.answers);
        let to = shop.at(port);
        shop.web.is_refused(to);
        let edge = edge(&shop.web.service, &nameless(to.ip()), port, Protocol::Tcp);
        let status = eventually(RETRIED, case.what, || {
            let status = shop.agent.json(&["status"]);
            let arrived = shop.receiver.requests().iter().skip(before).any(|it| it.answered < 300);
            if arrived && status["sinks"][0]["queued"] == 0 {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        });
        let requests = shop.receiver.requests().split_off(before);
        let tries: Vec<u16> = requests.iter().map(|it| it.answered).collect();
        assert_eq!(tries, case.tries, "{}", case.what);
        for request in &requests {
            request.is_proper();
            assert!(is_about(&request.alert(), &edge), "{}", case.what);
            assert_eq!(request.body, requests[0].body, "{}: another message", case.what);
            assert_eq!(request.path, "/hook", "{}: a redirect was followed", case.what);
        }
        for pair in requests.windows(2) {
            let asked = case.answers.first().and_then(|it| it.retry_after_s).unwrap_or(0);
            let pause = pair[1].at - pair[0].at;
            // At least half of the first pause of a second.
            let least = Duration::from_secs(asked.into()).max(Duration::from_millis(500));
            assert!(pause >= least, "{}: again after {pause:?}", case.what);
        }
        assert_eq!(status["sinks"][0]["failure"], serde_json::Value::Null, "{}", case.what);
    }
    let told = shop.told();
    let own = told.iter().filter(|it| is_of(it, &shop.web.service)).count();
    assert_eq!(own, CASES.len(), "each edge was accepted once");
}
