//! A message of DNS as a structured value. The bytes are a stranger's: whatever they are, it costs no more
//! than they are long, and what is not to be read is None. Looks at the question and at what it is
//! answered with, at nothing else; judges neither.

use std::net::{Ipv4Addr, Ipv6Addr};

use monitor_core::dns::{Data, Message, Name, Question, Record, Said};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Packet, QCLASS, ResourceRecord};

const HEADER: usize = 12;
/// A question and a record take at least so many bytes each.
const QUESTION: usize = 5;
const RECORD: usize = 11;

/// Reads a message that asks, or answers, one question of the Internet's names.
pub(super) fn message(bytes: &[u8]) -> Option<Message> {
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (id, flags) = (word(0)?, word(2)?);
    let (questions, answers) = (word(4)?, word(6)?);
    let is_standard = flags & 0x7800 == 0;
    // Room is made for as many records as are promised: no more than there can be.
    let least = HEADER + QUESTION + RECORD * usize::from(answers);
    if !is_standard || questions != 1 || bytes.len() < least {
        return None;
    }
    // What comes after the answers is not looked at.
    let mut bytes = bytes.to_vec();
    bytes[8..HEADER].fill(0);
    let packet = Packet::parse(&bytes).ok()?;
    let question = packet.questions.first().filter(|it| it.qclass == QCLASS::CLASS(CLASS::IN))?;
    let question = Question { name: name(&question.qname)?, kind: question.qtype.into() };
    let is_answer = flags & 0x8000 != 0;
    let said = if is_answer {
        Said::Answered(packet.answers.iter().filter_map(record).collect())
    } else {
        Said::Asked
    };
    Some(Message { id, question, said })
}

fn record(record: &ResourceRecord<'_>) -> Option<Record> {
    let data = match &record.rdata {
        RData::A(a) => Data::Address(Ipv4Addr::from(a.address).into()),
        RData::AAAA(aaaa) => Data::Address(Ipv6Addr::from(aaaa.address).into()),
        RData::CNAME(alias) => Data::Alias(name(&alias.0)?),
        _ => return None,
    };
    let is_internet = record.class == CLASS::IN;
    is_internet.then_some(Record { owner: name(&record.name)?, ttl_s: record.ttl, data })
}

fn name(name: &simple_dns::Name<'_>) -> Option<Name> {
    Name::from_labels(name.get_labels().iter().map(AsRef::as_ref))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The header of an answer to one question, of so many records.
    fn header(answers: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1];
        bytes.extend(answers.to_be_bytes());
        bytes.extend([0, 0, 0, 0]);
        bytes
    }

    fn labels(labels: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in labels {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(*label);
        }
        bytes.push(0);
        bytes
    }

    fn question(name: &[&[u8]], kind: u16) -> Vec<u8> {
        let mut bytes = labels(name);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes
    }

    fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
        let mut bytes = owner.to_vec();
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 60]);
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        bytes
    }

    /// The question's name, pointed at.
    const ITSELF: [u8; 2] = [0xc0, 12];

    fn answered(bytes: &[u8]) -> Vec<String> {
        let addresses = message(bytes).unwrap().addresses();
        addresses.into_iter().map(|(address, ttl)| format!("{address} {ttl}")).collect()
    }

    #[test]
    fn a_question_and_its_answer_are_read() {
        let mut asked = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        asked.extend(question(&[b"API", b"example", b"org"], 28));
        // EDNS, as every resolver of today asks.
        asked.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        let read = message(&asked).unwrap();
        assert_eq!((read.id, read.question.kind, &read.said), (0x1234, 28, &Said::Asked));
        assert_eq!(read.question.name.to_string(), "api.example.org");

        let mut bytes = header(3);
        bytes.extend(question(&[b"api", b"example", b"org"], 1));
        bytes.extend(record(&ITSELF, 5, &labels(&[b"Cdn", b"example"])));
        bytes.extend(record(&labels(&[b"cdn", b"EXAMPLE"]), 1, &[203, 0, 113, 1]));
        let mut v6 = [0; 16];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        bytes.extend(record(&labels(&[b"cdn", b"example"]), 28, &v6));
        assert_eq!(answered(&bytes), ["203.0.113.1 60", "2001:db8:: 60"]);
    }

    #[test]
    fn what_is_in_labels_is_safe_text() {
        let mut bytes = header(0);
        bytes.extend(question(&[b"a.b", b"\"';\x1b[2J", b"\xff\n"], 1));
        let name = message(&bytes).unwrap().question.name.to_string();
        assert_eq!(name, "a%2Eb.%22%27%3B%1B%5B2j.%FF%0A");
    }

    #[test]
    fn lies_are_not_read() {
        let asked = || question(&[b"a", b"example"], 1);
        let pointing_at_itself = [0xc0, u8::try_from(header(1).len() + asked().len()).unwrap()];
        let lies: [(&str, Vec<u8>); 6] = [
            ("nothing", Vec::new()),
            ("a header alone", header(0)),
            ("more records than there are", [header(1_000), asked()].concat()),
            ("no question", [&[0; 4][..], &[0; 8]].concat()),
            (
                "a loop",
                [header(1), asked(), record(&pointing_at_itself, 1, &[203, 0, 113, 1])].concat(),
            ),
            ("a short address", [header(1), asked(), record(&ITSELF, 1, &[203, 0])].concat()),
        ];
        for (what, bytes) in lies {
            assert_eq!(message(&bytes), None, "{what}");
        }
    }

    #[test]
    fn a_thousand_records_are_read_at_once() {
        let mut bytes = header(1_000);
        bytes.extend(question(&[b"a", b"example"], 1));
        for number in 0..1_000_u16 {
            let [high, low] = number.to_be_bytes();
            bytes.extend(record(&ITSELF, 1, &[198, 51, high, low]));
        }
        assert_eq!(answered(&bytes).len(), 1_000);
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_nothing_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            // Most random bytes are refused at the header.
            honest in any::<bool>(),
            answers in 0..4_u16,
        ) {
            let start = if honest { header(answers) } else { Vec::new() };
            if let Some(read) = message(&[start, bytes].concat()) {
                prop_assert!(read.question.name.text().len() <= Name::MAX_BYTES);
                prop_assert!(read.addresses().len() <= 4);
            }
        }
    }
}
