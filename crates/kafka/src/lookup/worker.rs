//! The thread that asks one broker: a blocking connection, one exchange at a time, questions about many partitions in one request.
//!
//! Promises: no partition is named twice in a request; what a broker does not answer goes back to have its leader looked for. Does not
//! know: what an answer means, other brokers.

use super::Queue;
use super::question::{Progress, Question, Stage};
use crate::connection::ConnectionOptions;
use crate::error::{CallError, Loss};
use crate::link::Link;
use crate::outcome::Why;
use crate::producer::Shared;
use crate::protocol::{
    ApiKey, DescribeProducersRequest, FetchPartition, FetchRequest, ListOffsetsPartition, ListOffsetsRequest,
    ListOffsetsResponse, Reach, Request,
};
use crate::queue::Woken;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of one Fetch answer. Its first batch comes whole, however large.
const FETCH_MAX_BYTES: i32 = 1024 * 1024;

/// Of a partition that is fetched for the first time, together with others: most of them have nothing new, or the batch at once.
const FIRST_FETCH_MAX_BYTES: i32 = 64 * 1024;

/// How many partitions are named in one request.
const PARTITIONS_MAX: usize = 64;

/// How long thread and connection are kept for the next question.
const IDLE_MAX: Duration = Duration::from_secs(5);

pub(super) struct Worker {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    link: Link<Question>,
    questions: VecDeque<Question>,
}

/// Why an exchange came to nothing. The connection is closed.
enum Broken {
    Lost(Why),
    /// An answer came that can't be read, or is larger than we take: the same question would get it again.
    Unreadable(String),
    Stopping,
}

impl Worker {
    pub(super) fn new(shared: &Arc<Shared>, broker: i32, queue: &Arc<Queue>) -> Self {
        Worker {
            shared: Arc::clone(shared),
            queue: Arc::clone(queue),
            link: Link::new(shared, broker, queue),
            questions: VecDeque::new(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let deadline = if self.questions.is_empty() { Instant::now() + IDLE_MAX } else { Instant::now() };
            match self.queue.wait(deadline, &self.shared.stopping) {
                Woken::Stop => return,
                Woken::Deadline if self.questions.is_empty() => {
                    self.link.close();
                    if self.queue.leave() {
                        return;
                    }
                }
                Woken::Work | Woken::Deadline => {
                    self.questions.extend(self.queue.take(|waiting| waiting.drain(..).collect()));
                    self.questions.retain(|question| !question.is_forgotten());
                    if !self.link.pause_while_throttled() {
                        return;
                    }
                    if !self.questions.is_empty() {
                        self.turn();
                    }
                }
            }
        }
    }

    /// One exchange. What needs least of it comes first: most questions are over before a log is read.
    fn turn(&mut self) {
        let Err(why) = self.connect() else {
            if self.any(|stage| stage == Stage::Memory) {
                self.ask_memory();
            } else if self.any(|stage| stage == Stage::Ends) {
                self.ask_ends();
            } else {
                self.fetch();
            }
            return;
        };
        self.shared.cluster.ask_refresh();
        let all = std::mem::take(&mut self.questions);
        self.send_back(all, &why);
    }

    fn any(&self, which: impl Fn(Stage) -> bool) -> bool {
        self.questions.iter().any(|question| which(question.stage()))
    }

    /// Takes out up to `max` that are at such a stage, no two of them for one partition, and if the first is to be alone, it alone.
    fn pick(&mut self, max: usize, which: impl Fn(Stage) -> bool) -> Vec<Question> {
        let mut picked: Vec<Question> = Vec::new();
        let mut rest = VecDeque::new();
        let mut full = false;
        for question in self.questions.drain(..) {
            let fits = picked.is_empty()
                || (!question.is_alone() && picked.iter().all(|other| other.partition() != question.partition()));
            if !full && fits && which(question.stage()) {
                full = question.is_alone();
                picked.push(question);
                full |= picked.len() == max;
            } else {
                rest.push_back(question);
            }
        }
        self.questions = rest;
        picked
    }

    fn ask_memory(&mut self) {
        if self.link.connection().is_none_or(|c| c.api_version(ApiKey::DescribeProducers).is_none()) {
            let all = self.questions.iter_mut().filter(|question| question.stage() == Stage::Memory);
            all.for_each(Question::no_memory);
            return;
        }
        let picked = self.pick(PARTITIONS_MAX, |stage| stage == Stage::Memory);
        let partitions: Vec<_> = picked.iter().map(Question::partition).collect();
        let request = DescribeProducersRequest { partitions: &partitions };
        match self.exchange(&request, &picked, self.shared.options.news_patience()) {
            Ok(response) => {
                self.link.throttled(response.throttle_time);
                for mut question in picked {
                    let answer =
                        only(response.partitions.iter().filter(|p| (&*p.topic, p.partition) == question.partition()));
                    let progress = question.described(&self.link.name(), answer);
                    self.proceed(question, progress);
                }
            }
            Err(broken) => self.broken(picked, broken),
        }
    }

    fn ask_ends(&mut self) {
        let mut picked = self.pick(PARTITIONS_MAX, |stage| stage == Stage::Ends);
        self.note_epochs(&mut picked);
        match self.list(&picked, ListOffsetsPartition::END).and_then(|ends| {
            // The end first: were it the other way round, retention could put the start behind an end that was never there.
            Ok((ends, self.list(&picked, ListOffsetsPartition::START)?))
        }) {
            Ok((ends, starts)) => {
                for mut question in picked {
                    let of = |answers: &'_ ListOffsetsResponse| {
                        only(answers.partitions.iter().filter(|p| (&*p.topic, p.partition) == question.partition()))
                            .cloned()
                    };
                    let (start, end) = (of(&starts), of(&ends));
                    let progress = question.ends_listed(&self.link.name(), start.as_ref(), end.as_ref());
                    self.proceed(question, progress);
                }
            }
            Err(broken) => self.broken(picked, broken),
        }
    }

    /// The versions from which on requests name the leader epoch.
    fn note_epochs(&mut self, picked: &mut [Question]) {
        let compares_epochs = self.link.connection().is_some_and(|connection| {
            connection.api_version(ApiKey::ListOffsets) >= Some(4) && connection.api_version(ApiKey::Fetch) >= Some(9)
        });
        for question in picked {
            question.asked_of(compares_epochs);
        }
    }

    fn list(&mut self, picked: &[Question], timestamp: i64) -> Result<ListOffsetsResponse, Broken> {
        let partitions: Vec<_> = picked
            .iter()
            .map(|question| ListOffsetsPartition {
                topic: question.partition().0,
                partition: question.partition().1,
                current_leader_epoch: question.leader_epoch(),
                timestamp,
            })
            .collect();
        let request = ListOffsetsRequest { reach: Reach::LogEnd, partitions: &partitions };
        let response = self.exchange(&request, picked, self.shared.options.news_patience())?;
        self.link.throttled(response.throttle_time);
        Ok(response)
    }

    /// The first fetches of many partitions together, later ones by turns.
    fn fetch(&mut self) {
        let is_first = |stage| matches!(stage, Stage::Log { first: true, .. });
        let mut picked = self.pick(PARTITIONS_MAX, is_first);
        if picked.is_empty() {
            picked = self.questions.pop_front().into_iter().collect();
        }
        self.note_epochs(&mut picked);
        let alone = picked.len() == 1;
        let partitions: Vec<_> = picked
            .iter()
            .filter_map(|question| {
                let Stage::Log { scan, .. } = question.stage() else { return None };
                let (topic, partition) = question.partition();
                Some(FetchPartition {
                    topic,
                    partition,
                    current_leader_epoch: question.leader_epoch(),
                    fetch_offset: scan.next(),
                    max_bytes: if alone { FETCH_MAX_BYTES } else { FIRST_FETCH_MAX_BYTES },
                })
            })
            .collect();
        // Never waits for more to be appended: what is there is wanted, and others wait for this thread.
        let request =
            FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes: FETCH_MAX_BYTES, partitions: &partitions };
        match self.exchange(&request, &picked, self.shared.options.request_timeout()) {
            Ok(response) => {
                self.link.throttled(response.throttle_time);
                for mut question in picked {
                    let answer =
                        only(response.partitions.iter().filter(|p| (&*p.topic, p.partition) == question.partition()));
                    let progress = question.fetched(&self.link.name(), answer, alone);
                    self.proceed(question, progress);
                }
            }
            Err(broken) => self.broken(picked, broken),
        }
    }

    fn proceed(&mut self, mut question: Question, progress: Progress) {
        match progress {
            Progress::On => self.questions.push_back(question),
            Progress::Back(why) => {
                question.failed(&why);
                self.shared.lookups.await_leader(question, &self.shared);
            }
            Progress::Over(evidence) => {
                log::debug!("kafka: {}: looked up: {evidence:?}", question.lane());
                self.shared.lookups.answered(question, evidence, &self.shared);
            }
        }
    }

    fn broken(&mut self, picked: Vec<Question>, broken: Broken) {
        match broken {
            Broken::Lost(why) => {
                self.shared.cluster.ask_refresh();
                self.send_back(picked, &why);
                // The others wait for the same broker.
                let rest = std::mem::take(&mut self.questions);
                self.send_back(rest, &why);
            }
            Broken::Unreadable(why) => {
                let alone = picked.len() == 1;
                for mut question in picked {
                    let progress = question.unreadable(&why, alone);
                    self.proceed(question, progress);
                }
            }
            Broken::Stopping => {}
        }
    }

    fn send_back(&self, questions: impl IntoIterator<Item = Question>, why: &Why) {
        for mut question in questions {
            question.failed(why);
            self.shared.lookups.await_leader(question, &self.shared);
        }
    }

    fn connect(&mut self) -> Result<(), Why> {
        let Some(address) = self.link.where_to_connect()? else { return Ok(()) };
        let ordinary = self.shared.connection_options();
        // Another producer's batch may be as large as ours.
        let receive_bytes_max = ordinary.receive_bytes_max.max(self.shared.options.max_request_size + (1 << 20));
        self.link.connect(address, &ConnectionOptions { receive_bytes_max, ..ordinary })
    }

    fn exchange<R: Request>(
        &mut self,
        request: &R,
        picked: &[Question],
        patience: Duration,
    ) -> Result<R::Response, Broken> {
        let broker = self.link.name();
        let Some(connection) = self.link.connection() else {
            return Err(Broken::Lost(Why::new(format!("broker {broker}: not connected"))));
        };
        // It may take long, and be in vain when another broker leads by now: then the metadata thread cuts it off.
        let struggle = self.shared.cluster.struggle();
        let named = picked.iter().map(|question| (question.topic(), question.partition().1)).collect();
        self.queue.under_way(named);
        let result = connection.call(request, patience);
        self.queue.under_way(Vec::new());
        drop(struggle);
        let error = match result {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        self.link.close();
        if self.shared.stopping.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Broken::Stopping);
        }
        let text = format!("broker {broker}: {}", crate::metadata::chain(&error));
        Err(match error {
            CallError::Decode(_) | CallError::Lost { loss: Loss::FrameLength { .. }, .. } => Broken::Unreadable(text),
            _ => Broken::Lost(Why::new(text)),
        })
    }
}

/// The one there is. None and two prove nothing.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}
