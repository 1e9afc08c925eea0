//! The producer against a broker that does every unpleasant thing on request: what each answer, fault and failure becomes for an owner of batches.

mod answers;
mod clusters;
mod codes;
mod compression;
mod connections;
mod ends;
mod leaders;
mod look_up;
mod look_up_real;
mod opening;
mod ordinary;
mod real;
mod rig;
mod secure;
mod secure_real;
#[path = "../support/self_signed.rs"]
mod self_signed;
mod servers;
mod storm;
