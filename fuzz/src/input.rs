//! Arbitrary programs: few accounts and ids, so that they collide; amounts from the ends of i64 and around nothing.

use arbitrary::{Arbitrary, Unstructured};
use equipoise::{AccountId, InvalidRequest, Member, Operation, Posting, Request, TransactionId};

/// One of a few accounts.
#[derive(Clone, Copy, Debug)]
pub struct Name(u8);

/// Their ids, and now and then a wrong one. Prefixes of each other, a long one, one beyond ASCII.
const NAMES: [&str; 6] = ["a", "aa", "ab", "b", "é", "0123456789-0123456789-0123456789"];

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Name(u8::arbitrary(input)?))
    }

    fn size_hint(_: usize) -> (usize, Option<usize>) {
        (1, Some(1))
    }
}

impl Name {
    pub fn text(self) -> String {
        match self.0 {
            255 => String::new(),
            254 => "x".repeat(129),
            253 => "a\nb".to_owned(),
            252 => "x".repeat(128),
            number => NAMES[usize::from(number) % NAMES.len()].to_owned(),
        }
    }

    /// One of the few, never a wrong one.
    pub fn account(self) -> AccountId {
        AccountId::new(NAMES[usize::from(self.0) % NAMES.len()]).expect("a valid id")
    }

    /// One of a few transaction ids.
    pub fn id(self) -> TransactionId {
        TransactionId::new(&format!("id-{}", self.0 % 8)).expect("a valid id")
    }
}

/// An amount, often a telling one.
#[derive(Clone, Copy, Debug)]
pub struct Amount(pub i64);

impl<'a> Arbitrary<'a> for Amount {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Amount(match u8::arbitrary(input)? {
            small @ 0..=199 => i64::from(small) - 50,
            200..=209 => i64::MAX,
            210..=219 => i64::MIN,
            220..=224 => i64::MAX - 1,
            225..=229 => i64::MIN + 1,
            230..=239 => i64::MAX / 2 + 1,
            _ => i64::arbitrary(input)?,
        }))
    }
}

/// One operation, perhaps a wrong one.
#[derive(Arbitrary, Clone, Debug)]
pub enum Change {
    Create { account: Name, initial: Amount },
    Update { account: Name, delta: Amount },
    Transfer { from: Name, to: Name, amount: Amount },
    Post { legs: Vec<(Name, Amount)>, balanced: bool },
}

impl Change {
    /// The operation, or the error that its constructor must give: the model's view and the crate's are compared here.
    pub fn operation(&self) -> Option<Operation> {
        match self {
            Change::Create { account, initial } => {
                let made = Operation::create(account.account(), initial.0);
                assert_eq!(made.is_err(), initial.0 < 0);
                checked(made, "Initial balance cannot be negative")
            }
            Change::Update { account, delta } => Some(Operation::update(account.account(), delta.0)),
            Change::Transfer { from, to, amount } => {
                let (from, to) = (from.account(), to.account());
                let same = from == to;
                let made = Operation::transfer(from, to, amount.0);
                assert_eq!(made.is_err(), same || amount.0 <= 0);
                checked(
                    made,
                    if same { "Cannot transfer to the same account" } else { "Transfer amount must be positive" },
                )
            }
            Change::Post { legs, balanced } => post(legs, *balanced),
        }
    }
}

fn checked(made: Result<Operation, InvalidRequest>, text: &str) -> Option<Operation> {
    made.map_err(|invalid| assert_eq!(invalid.to_string(), text)).ok()
}

fn post(legs: &[(Name, Amount)], balanced: bool) -> Option<Operation> {
    let mut legs: Vec<_> =
        legs.iter().take(8).map(|(account, amount)| Posting { account: account.account(), delta: amount.0 }).collect();
    if balanced && let Some((last, others)) = legs.split_last_mut() {
        let rest: i128 = others.iter().map(|leg| i128::from(leg.delta)).sum();
        last.delta = i64::try_from(-rest).unwrap_or(last.delta);
    }
    let sum: i128 = legs.iter().map(|leg| i128::from(leg.delta)).sum();
    let mut accounts: Vec<_> = legs.iter().map(|leg| leg.account.clone()).collect();
    accounts.sort();
    accounts.dedup();
    let twice = accounts.len() < legs.len();
    let valid = !legs.is_empty() && sum == 0 && !twice;
    match Operation::post(legs) {
        Ok(operation) => {
            assert!(valid, "{operation:?}");
            Some(operation)
        }
        Err(InvalidRequest::EmptyPosting) => {
            assert!(accounts.is_empty());
            None
        }
        Err(InvalidRequest::PostingTwice { .. }) => {
            assert!(twice);
            None
        }
        Err(InvalidRequest::PostingUnbalanced { sum: said }) => {
            assert!(!twice && !valid && said == sum);
            None
        }
        // More that is wrong with a posting than the model knows.
        Err(_) => {
            assert!(accounts.len() < 2);
            None
        }
    }
}

/// An operation with or without an id.
#[derive(Arbitrary, Clone, Debug)]
pub struct Submission {
    change: Change,
    id: Option<Name>,
}

impl Submission {
    fn member(&self) -> Option<Member> {
        Some(Member { id: self.id.map(Name::id), operation: self.change.operation()? })
    }

    pub fn request(&self) -> Option<Request> {
        self.member().map(|member| Request::single(member.operation, member.id))
    }
}

/// A chain of them; those that are wrong in themselves are left out.
pub fn chain(submissions: &[Submission]) -> Option<Request> {
    let members: Vec<_> = submissions.iter().take(16).filter_map(Submission::member).collect();
    let mut ids: Vec<_> = members.iter().filter_map(|member| member.id.clone()).collect();
    let carried = ids.len();
    ids.sort();
    ids.dedup();
    let (empty, twice) = (members.is_empty(), ids.len() < carried);
    let made = Request::chain(members);
    match &made {
        Ok(_) => assert!(!empty && !twice),
        Err(InvalidRequest::EmptyChain) => assert!(empty),
        Err(InvalidRequest::IdTwiceInChain { id }) => assert!(twice && ids.contains(id)),
        Err(other) => panic!("{other}"),
    }
    made.ok()
}

/// One step of a program.
#[derive(Arbitrary, Clone, Debug)]
pub enum Step {
    /// Through `submit`.
    Submit(Submission),
    /// Several, committed together or not at all.
    Chain(Vec<Submission>),
    /// Exactly what an earlier step submitted, once more.
    Again(u8),
    /// Through the methods without an id.
    Direct(Change),
    /// Between handles.
    TransferBetween { from: Name, to: Name, amount: Amount },
    /// Through a handle.
    UpdateHandle { account: Name, delta: Amount },
    /// Every way of reading one account.
    Read(Name),
    /// Parses an id, a wrong one perhaps.
    Parse(Name),
    /// Opens a snapshot and keeps it.
    Open { durable: bool },
    /// Compares a kept snapshot with the model's copy of its time.
    Compare(u8),
    /// One page of a kept snapshot.
    Page { snapshot: u8, prefix: Name, after: Option<Name>, limit: u8 },
    /// Drops a kept snapshot.
    Close(u8),
    /// Asks what became of an id.
    Transaction(Name),
    /// Reads the journal.
    History { from: u8, limit: u8 },
}

/// A program, and what ledger it runs on.
#[derive(Arbitrary, Clone, Debug)]
pub struct Program {
    pub cache: bool,
    /// The history's bound is small.
    pub short_history: bool,
    pub steps: Vec<Step>,
}
