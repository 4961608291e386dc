use blosm_ledger::{PublicKey, SecretKey};

use super::*;
use crate::service::Declaration;

const GIB: u64 = 1 << 30;

fn key() -> PublicKey {
    SecretKey::from_seed(&[7; 32]).public()
}

fn service() -> Service {
    let digest = format!("sha256:{}", "11".repeat(32));
    let json = format!(
        r#"{{"name":"counter","image":"c:1@{digest}","port":80,"resources":{{"memory":"1GiB","gpu":0}}}}"#
    );
    serde_json::from_str::<Declaration>(&json)
        .unwrap()
        .validate()
        .unwrap()
}

fn metadata(service: &Service) -> Metadata {
    Metadata {
        source: key(),
        addresses: vec![],
        container_id: "c".repeat(64),
        service: service.name.clone(),
        declaration_hash: service.declaration_hash(),
        total_size: 2 * GIB,
        writable_size: GIB / 4,
        memory: GIB / 2,
        cpu_usage: 500,
        gpu_usage: 0,
        gpu_memory: 0,
        architecture: "amd64".into(),
        config_digest: service.image.config_digest.0,
    }
}

fn roomy() -> SystemView {
    SystemView {
        memory_free: 4 * GIB,
        cpu_free_milli: 1000,
        gpu_free_milli: 0,
        disk_free: 100 * GIB,
        disk_least: 0,
        architecture: "amd64".into(),
        runtime_ready: true,
        gpus_free: 0,
        base_held: true,
    }
}

type Edit = fn(&mut Metadata, &mut SystemView, &mut Service);

#[test]
fn algorithm_2_as_its_text_says() {
    // (what, change, tolerance, [memory, cpu, gpu, service], hard, accepted)
    type Row = (&'static str, Edit, u8, [bool; 4], Option<HardFailure>, bool);
    let rows: &[Row] = &[
        ("all fits", |_, _, _| {}, 1, [true; 4], None, true),
        ("all fits, strictly", |_, _, _| {}, 0, [true; 4], None, true),
        (
            "exactly as much as is free",
            |m, s, _| {
                m.cpu_usage = 1000;
                m.total_size = s.memory_free;
            },
            0,
            [true; 4],
            None,
            true,
        ),
        (
            "size above free memory",
            |m, _, _| m.total_size = 5 * GIB,
            1,
            [false, true, true, true],
            None,
            true,
        ),
        (
            "the same, strictly",
            |m, _, _| m.total_size = 5 * GIB,
            0,
            [false, true, true, true],
            None,
            false,
        ),
        (
            "used memory above free memory",
            |m, _, _| m.memory = 5 * GIB,
            1,
            [false, true, true, true],
            None,
            true,
        ),
        (
            "cpu short",
            |_, s, _| s.cpu_free_milli = 499,
            1,
            [true, false, true, true],
            None,
            true,
        ),
        (
            "gpu share short",
            |m, _, _| m.gpu_usage = 1,
            1,
            [true, true, false, true],
            None,
            true,
        ),
        (
            "two short",
            |m, s, _| {
                m.gpu_usage = 1;
                s.cpu_free_milli = 0;
            },
            1,
            [true, false, false, true],
            None,
            false,
        ),
        (
            "two short, tolerated",
            |m, s, _| {
                m.gpu_usage = 1;
                s.cpu_free_milli = 0;
            },
            2,
            [true, false, false, true],
            None,
            true,
        ),
        (
            "another declaration",
            |m, _, _| m.declaration_hash = blosm_ledger::Hash([0; 32]),
            3,
            [true, true, true, false],
            None,
            false,
        ),
        (
            "another base",
            |m, _, _| m.config_digest = [0; 32],
            3,
            [true, true, true, false],
            None,
            false,
        ),
        (
            "another name",
            |m, _, _| m.service = "other".into(),
            3,
            [true, true, true, false],
            None,
            false,
        ),
        (
            "another architecture",
            |m, _, _| m.architecture = "arm64".into(),
            3,
            [true; 4],
            Some(HardFailure::Architecture),
            false,
        ),
        (
            "no engine",
            |_, s, _| s.runtime_ready = false,
            3,
            [true; 4],
            Some(HardFailure::Runtime),
            false,
        ),
        (
            "disk full",
            |_, s, _| s.disk_free = GIB / 4,
            3,
            [true; 4],
            Some(HardFailure::Disk),
            false,
        ),
        (
            "less disk free than the node keeps",
            |_, s, _| s.disk_least = 101 * GIB,
            3,
            [true; 4],
            Some(HardFailure::Disk),
            false,
        ),
        (
            "disk for the change, base held",
            |_, s, _| s.disk_free = GIB / 2,
            1,
            [true; 4],
            None,
            true,
        ),
        (
            "disk for the change, base absent",
            |_, s, _| {
                s.disk_free = GIB;
                s.base_held = false;
            },
            1,
            [true; 4],
            Some(HardFailure::Disk),
            false,
        ),
        (
            "reservation does not fit",
            |_, s, _| s.memory_free = GIB - 1,
            3,
            [false, true, true, true],
            Some(HardFailure::Reservation),
            false,
        ),
        (
            "a GPU is needed and none is left",
            |m, _, o| {
                o.resources.gpu = 1;
                m.declaration_hash = o.declaration_hash();
            },
            3,
            [true; 4],
            Some(HardFailure::GpuDevice),
            false,
        ),
        (
            "a GPU is needed and there",
            |m, s, o| {
                o.resources.gpu = 1;
                m.declaration_hash = o.declaration_hash();
                s.gpus_free = 1;
            },
            0,
            [true; 4],
            None,
            true,
        ),
    ];
    for (what, edit, tolerance, flags, hard, accepted) in rows {
        let mut ours = service();
        let (mut meta, mut system) = (metadata(&ours), roomy());
        edit(&mut meta, &mut system, &mut ours);
        let verdict = evaluate(&meta, Some(&ours), &system, *tolerance);
        let [memory, cpu, gpu, service] = *flags;
        assert_eq!(
            verdict,
            Verdict {
                memory,
                cpu,
                gpu,
                service,
                hard: *hard,
                accepted: *accepted
            },
            "{what}"
        );
    }
}

#[test]
fn an_undeclared_service_is_never_taken() {
    let verdict = evaluate(&metadata(&service()), None, &roomy(), 3);
    assert!(!verdict.service && !verdict.accepted);
}

#[test]
fn absurd_sizes_are_refused_without_overflow() {
    let ours = service();
    let mut meta = metadata(&ours);
    meta.total_size = u64::MAX;
    meta.writable_size = u64::MAX;
    let verdict = evaluate(
        &meta,
        Some(&ours),
        &SystemView {
            base_held: false,
            ..roomy()
        },
        3,
    );
    assert_eq!(verdict.hard, Some(HardFailure::Disk));
}

#[test]
fn the_view_is_the_smaller_of_machine_and_bookings() {
    let readings = Readings {
        memory_free: 10,
        cpu_free_milli: 900,
        disk_free: 5,
        ..Readings::default()
    };
    let remaining = Amount {
        memory: 20,
        cpu_milli: 100,
        gpus: 2,
        gpu_memory: 0,
    };
    let view = SystemView::new(&readings, remaining, "amd64", true, false, 4);
    assert_eq!(
        (
            view.memory_free,
            view.cpu_free_milli,
            view.gpus_free,
            view.disk_free,
            view.disk_least
        ),
        (10, 100, 2, 5, 4)
    );
}
