"""The rows of the fault matrix, with the tests that hold them and the way each was broken once."""

from __future__ import annotations

from tests.support.fault_matrix import Broken, Row

_CLIENT = "service/engine/client.py"
_RUNNER = "service/engine/runner.py"
_GUARD = "service/engine/guard.py"
_SUPERVISOR = "service/supervisor.py"
_DECODER = "service/tasks/classification.py"
_PACKAGES = "service/loader/packages.py"

ROWS = [
    Row(
        "I1-I3, I9-I11",
        "empty, random, truncated bytes; JSON of every wrong shape; bad base64, methods, paths, `top_k`",
        ("test_bad_input_gets_its_status_and_words_that_help", "test_wrong_methods_and_paths_are_problems_too"),
        Broken("an empty body is let through", "service/frontend/limits.py", "if not body:", "if False:"),
    ),
    Row(
        "I4",
        "a picture of more pixels than allowed",
        ("test_a_size_that_is_only_promised_is_refused_from_the_header",),
        Broken("no look at the header's size", _DECODER, "if width * height > self._max_pixels:", "if False:"),
    ),
    Row(
        "I5",
        "every kind of picture, rotated by EXIF and of 16 bits",
        ("test_every_kind_of_picture_is_seen_as_pil_sees_it", "test_a_16_bit_png_is_scaled_to_8_bits"),
        Broken("EXIF is not looked at", _DECODER, "apply_exif_orientation=True", "apply_exif_orientation=False"),
    ),
    Row(
        "I6",
        "a body over the limit, by its Content-Length and chunked",
        (
            "test_a_body_over_the_limit_is_refused_from_its_content_length_alone",
            "test_a_chunked_body_is_refused_at_the_limit",
            "test_i6_a_stated_length_over_the_limit_is_413_at_once_and_the_connection_ends",
            "test_i6_a_client_that_goes_on_sending_reads_its_413_and_is_not_buffered",
            "test_i6_a_lying_length_gets_an_answer_and_the_connection_ends",
        ),
        Broken(
            "no limit while reading",
            "service/frontend/limits.py",
            "if size > most:",
            "if False:",
            "test_a_chunked_body_is_refused_at_the_limit",
        ),
    ),
    Row(
        "I7",
        "slow bodies, slow and endless headers, a thousand idle connections",
        (
            "test_i7_a_body_of_a_byte_a_second_is_408",
            "test_i7_headers_that_do_not_end_are_408",
            "test_i7_slow_headers_on_a_connection_that_has_been_answered_are_408_too",
            "test_i7_endless_headers_are_431",
            "test_i7_a_thousand_idle_connections_harm_nobody_and_are_closed",
        ),
        Broken(
            "headers have all the time in the world",
            "service/frontend/connection.py",
            "self._timer = self.loop.call_later(self._limits.header_seconds, self._headers_too_slow)",
            "pass",
            "test_i7_headers_that_do_not_end_are_408",
        ),
    ),
    Row(
        "I8",
        "JSON that is deep, wide or no JSON: an answer within 100 ms of its end",
        ("test_i8_bad_json_is_refused_within_a_tenth_of_a_second_of_its_end",),
        Broken(
            "instances are built before they are counted",
            "service/frontend/inputs.py",
            "    _count_first(body, most)\n",
            "",
        ),
    ),
    Row(
        "I12",
        "one bad picture in a multipart of several",
        ("test_one_bad_picture_of_several_is_named",),
        Broken(
            "the words do not say which", "service/frontend/predict.py", "Picture {len(tensors)} of", "A picture of"
        ),
    ),
    Row(
        "I14",
        "random and damaged bytes to the decoders (hypothesis), and requests made from the schema (schemathesis)",
        (
            "test_i14_requests_made_from_the_schema_are_answered_as_it_says",
            "test_random_bytes_are_refused",
            "test_a_damaged_jpeg_is_a_picture_or_refused",
            "test_a_png_with_one_bit_flipped_is_a_picture_or_refused_and_kills_nobody",
        ),
        Broken("PNGs go to torchvision's decoder", _DECODER, '_BY_PIL = ("PNG", "GIF")', '_BY_PIL = ("GIF",)'),
    ),
    Row(
        "E1",
        "`kill -9` of the engine under load, five times, and at random moments under mixed load",
        (
            "test_e1_five_kills_of_the_engine_fail_no_request_and_no_counter_falls",
            "test_e1_the_default_model_serves_on_over_kills_of_its_engine",
            "test_kills_at_random_moments_under_mixed_load_lose_nothing_and_answer_nothing_twice",
        ),
        Broken(
            "what a dead engine had not answered is refused, not sent again",
            _CLIENT,
            "                self._metrics.replayed.labels(pending.frame.model).inc()\n",
            "                pending.future.set_exception(NotReady('gone'))\n                continue\n",
            "test_e1_five_kills_of_the_engine_fail_no_request_and_no_counter_falls",
        ),
    ),
    Row(
        "E2",
        "an input that makes the engine segfault",
        ("test_e2_a_picture_that_crashes_the_model_costs_two_engines_and_fails_alone",),
        Broken("one strike is enough", _CLIENT, "if pending.frame.alone:", "if True:"),
    ),
    Row(
        "E2b",
        "three SIGKILLs with one innocent request aboard",
        ("test_e2b_three_kills_with_a_lonely_request_aboard_are_not_its_fault",),
        Broken("a SIGKILL is a strike", _CLIENT, "KILLS_FOR_A_STRIKE = 5", "KILLS_FOR_A_STRIKE = 1"),
    ),
    Row(
        "E3",
        "an engine that is stopped, idle or at work, and a forward that never returns",
        (
            "test_e3_a_stopped_engine_is_replaced_and_its_requests_are_answered",
            "test_e3_a_stopped_engine_without_a_request_is_replaced_too",
            "test_e3_a_forward_that_never_returns_costs_two_engines_and_fails_alone",
            "test_e3_a_request_in_an_engine_that_hangs_gets_504_at_its_deadline",
        ),
        Broken(
            "the watchdog ends nobody",
            "service/watchdog.py",
            "child.kill(CAUSE)",
            "pass",
            "test_e3_a_stopped_engine_without_a_request_is_replaced_too",
        ),
    ),
    Row(
        "E4, I13",
        "a forward that raises for one example, alone in its request or among others, in the batches of others",
        (
            "test_e4_one_example_that_raises_fails_alone_and_its_batch_is_answered",
            "test_e4_of_one_request_with_a_bad_example_all_fail_and_of_others_none",
        ),
        Broken("a failed batch is not halved", _RUNNER, "            if size == 1:\n", "            if True:\n"),
    ),
    Row(
        "E5",
        "out of memory at more than two examples (the same exception, raised by the model)",
        ("test_e5_out_of_memory_makes_smaller_batches_and_nobody_sees_it",),
        Broken("no cap is learned", _RUNNER, "self._caps.too_large(name, size)", "pass"),
    ),
    Row(
        "E6, E16",
        "NaN, too few and too many answers, exceptions, `sys.exit` in forward",
        (
            "test_e6_e16_what_a_model_does_wrong_is_500_in_words_and_it_serves_on",
            "test_e6_a_row_of_nan_fails_its_own_request_and_nobody_else_in_the_batch",
        ),
        Broken("nobody looks for NaN", _RUNNER, "if any(map(math.isnan, probabilities[:, 0].tolist())):", "if False:"),
    ),
    Row(
        "E8",
        "weights written to in place, through `.data`, and a bit flipped from outside",
        (
            "test_e8_a_write_in_place_is_caught_within_its_batch_and_nobody_is_answered_by_it",
            "test_e8_a_write_through_data_is_found_by_the_hash_and_the_weights_come_from_disk_again",
            "test_e8_a_bit_flipped_from_outside_is_found_by_the_hash",
            "test_a_violation_while_serving_is_answered_by_no_model_that_was_caught",
        ),
        Broken(
            "version counters are not looked at",
            _GUARD,
            "if self._count_writes() != self._writes:",
            "if False:",
            "test_e8_a_write_in_place_is_caught_within_its_batch_and_nobody_is_answered_by_it",
        ),
    ),
    Row(
        "E9, E10",
        "train mode, unfrozen, inference mode left, state between calls, company",
        ("test_e9_e10_what_breaks_a_rule_is_not_served_and_the_others_are",),
        Broken(
            "a failed proof is served all the same", "service/engine/worker.py", "if not report.passed:", "if False:"
        ),
    ),
    Row(
        "E11",
        "a front end is killed",
        ("test_e11_a_killed_front_end_is_replaced_and_the_others_connections_live",),
        Broken(
            "a dead front end is not replaced",
            _SUPERVISOR,
            "await self._start_front_end(number, 0.0 if lived",
            "lived or await self._start_front_end(number, 0.0 if lived",
        ),
    ),
    Row(
        "E12",
        "the supervisor is killed",
        ("test_e12_when_the_supervisor_is_killed_everything_ends",),
        Broken(
            "children ignore the end of their lifeline",
            "service/child.py",
            "    def connection_lost(self, exc: Exception | None) -> None:\n        os._exit(1)",
            "    def connection_lost(self, exc: Exception | None) -> None:\n        pass",
        ),
    ),
    Row(
        "E14",
        "a CUDA error that is not out-of-memory (the same text, raised by the model)",
        ("test_e14_a_lost_device_ends_the_engine_and_the_next_one_answers",),
        Broken("it counts as any exception", _RUNNER, "if is_device_lost(error):", "if False:"),
    ),
    Row(
        "E17",
        "the worker thread dies of an unexpected exception",
        ("test_e17_a_worker_that_dies_takes_its_process_with_it_and_nothing_is_lost",),
        Broken("its process lives on", "service/engine/worker.py", "            os._exit(1)", "            return"),
    ),
    Row(
        "E18",
        "the fork server is killed, then an engine",
        ("test_e18_a_killed_fork_server_costs_nothing_and_no_engine_gets_a_twin",),
        Broken(
            "nobody starts another fork server",
            _SUPERVISOR,
            'log.error("fork server died")\n',
            'log.error("fork server died")\n            return\n',
        ),
    ),
    Row(
        "L1",
        "ten times capacity, open loop, on a model of 28 pictures/s",
        ("test_l1_at_ten_times_capacity_nine_tenths_of_it_are_answered_and_the_rest_told_at_once",),
        Broken("nobody is refused for the time it would take", _CLIENT, "if wait and finish > deadline:", "if False:"),
    ),
    Row(
        "L2",
        "every client leaves while its request waits or is being sent",
        (
            "test_l2_the_work_of_clients_who_left_never_reaches_the_device",
            "test_l2_a_client_who_leaves_within_its_body_is_let_go",
        ),
        Broken(
            "nobody is told that the client has left",
            "service/frontend/connection.py",
            "self._answering.cancel(ClientLeft.name)",
            "pass",
            "test_l2_the_work_of_clients_who_left_never_reaches_the_device",
        ),
    ),
    Row(
        "L6",
        "2,000 keep-alive connections, and one too many",
        (
            "test_l6_two_thousand_connections_that_stay_are_served_and_served_again",
            "test_l6_a_connection_too_many_is_told_when_to_come_back_and_the_others_stay",
        ),
        Broken(
            "as many as come",
            "service/frontend/connection.py",
            "elif len(self.connections) > most:",
            "elif False:",
            "test_l6_a_connection_too_many_is_told_when_to_come_back_and_the_others_stay",
        ),
    ),
    Row(
        "L3",
        "deadlines shorter than the queue",
        (
            "test_l3_a_request_past_its_deadline_never_reaches_the_device",
            "test_l3_a_deadline_shorter_than_the_queue_is_refused_at_the_door",
        ),
        Broken(
            "what is late is run all the same",
            "service/engine/batcher.py",
            "if request.gone or request.deadline <= now + shortest.get(model, 0.0)",
            "if False",
        ),
    ),
    Row(
        "L4",
        "two models, one flooded",
        ("test_l4_a_flooded_model_costs_another_one_batch_of_its_own_at_most",),
        Broken(
            "models do not take turns",
            "service/engine/batcher.py",
            "            self._turns.rotate(-1)\n            if self._queues[model]:",
            "            if not self._queues[model]:\n                self._turns.rotate(-1)\n            else:",
        ),
    ),
    Row(
        "L5, L9",
        "everything at once: three models of different input, batch sizes of all kinds, good and bad requests, probes",
        ("test_l5_l9_memory_is_flat_under_good_and_bad_requests_of_all_sizes",),
        Broken(
            "each body is kept",
            "service/frontend/predict.py",
            "        pictures = await read_pictures(",
            "        self.__dict__.setdefault('kept', []).append(body * 4)\n        pictures = await read_pictures(",
        ),
    ),
    Row(
        "L7",
        "probes and scrapes, each on a connection of its own",
        ("test_l7_probes_and_scrapes_on_connections_of_their_own_cost_nothing_that_stays",),
        Broken(
            "each probe leaves a handle open",
            "service/frontend/operations.py",
            '        return _json({"status": "live"})\n',
            '        client.__dict__.setdefault("kept", []).append(open("/dev/null"))\n'
            '        return _json({"status": "live"})\n',
        ),
    ),
    Row(
        "L8",
        "requests that all fail: bad pictures, models that raise or answer wrongly",
        ("test_l8_requests_that_all_fail_cost_nothing_that_stays",),
        Broken(
            "each failure keeps 64 KiB",
            _RUNNER,
            "if is_device_lost(error):",
            "self.__dict__.setdefault('kept', []).append(b'x' * 65_536)\n        if is_device_lost(error):",
        ),
    ),
    Row(
        "C1",
        "SIGTERM under load, to the parent and to the group",
        (
            "test_c1_sigterm_under_load_loses_nothing_and_leaves_no_process",
            "test_c1_who_connected_just_before_the_door_closed_is_heard_out",
            "test_c1_who_comes_while_the_door_closes_is_answered_or_refused_and_never_reset",
            "test_who_has_come_is_heard_and_who_comes_later_is_not_let_in",
        ),
        Broken(
            "idle connections are closed at once",
            "service/frontend/server.py",
            "        await self._hear_out()\n",
            "",
            "test_c1_who_connected_just_before_the_door_closed_is_heard_out",
        ),
    ),
    Row(
        "C2",
        "SIGINT, SIGTERM twice, SIGTERM during start-up",
        (
            "test_c2_ctrl_c_of_an_idle_server_ends_it_well",
            "test_c2_a_second_signal_ends_at_once",
            "test_c2_a_signal_during_start_up_ends_it",
            "test_c2_sigterm_during_a_reload_loses_nothing_and_does_not_wait_for_it",
            "test_c2_a_request_that_is_stuck_during_the_drain_is_refused_when_it_is_over",
        ),
        Broken(
            "a second signal is like the first",
            _SUPERVISOR,
            "        if self._signals == 1:\n",
            "        if self._signals >= 1:\n",
            "test_c2_a_second_signal_ends_at_once",
        ),
    ),
    Row(
        "C3",
        "model folders that change under load; with `--watch`; their input too",
        (
            "test_c3_a_model_replaced_under_load_is_switched_to_and_every_answer_is_of_one_version",
            "test_c3_a_model_whose_input_changes_never_gets_a_picture_that_was_decoded_for_the_old_one",
            "test_c3_with_watch_a_folder_that_comes_goes_or_changes_is_taken_up_when_it_is_quiet",
            "test_c3_a_request_to_reload_while_one_runs_means_one_more_and_no_more",
        ),
        Broken(
            "front ends are not told of the new generation",
            "service/generations.py",
            "        self._broadcast(generation(engine, ready))\n",
            "        if not before:\n            self._broadcast(generation(engine, ready))\n",
            "test_c3_a_model_replaced_under_load_is_switched_to_and_every_answer_is_of_one_version",
        ),
    ),
    Row(
        "C4",
        "a change that is bad: a card, weights, a model that fails its proof",
        ("test_c4_a_bad_change_changes_nothing_and_is_told_until_a_reload_succeeds",),
        Broken(
            "a worse generation is turned to",
            "service/reload.py",
            "if device.current and (problems := faults(served(device.current), served(engine))):",
            "if False and (problems := []):",
        ),
    ),
    Row(
        "C8",
        "generations one after another under load",
        ("test_c8_generations_one_after_another_under_load_cost_nothing_that_stays",),
        Broken(
            "the old generation is not told to end",
            "service/generations.py",
            "            self.retire(before)\n        self._changed(device)\n\n    async",
            "            pass\n        self._changed(device)\n\n    async",
        ),
    ),
    Row(
        "C5",
        "two replicas behind haproxy, which tries nothing twice, restarted one after the other",
        ("test_c5_a_rolling_restart_behind_a_proxy_fails_no_request",),
        Broken(
            "a draining server is ready",
            "service/frontend/operations.py",
            'reasons = ["draining"] if is_draining() else unready(client)',
            "reasons = unready(client)",
        ),
    ),
    Row(
        "C7",
        "the clock is set back an hour, forward two, and back one (libfaketime)",
        ("test_c7_a_clock_that_is_set_back_or_forward_makes_nothing_time_out",),
        Broken(
            "children take the time of day for their deadlines",
            "service/child.py",
            '    setproctitle.setproctitle(f"gradless: {name}")\n',
            '    setproctitle.setproctitle(f"gradless: {name}")\n'
            "    import time\n\n    time.monotonic = time.time  # type: ignore[assignment]\n",
        ),
    ),
    Row(
        "C9, E7",
        "a slow load, and an engine that never comes up",
        (
            "test_c9_a_slow_load_is_live_and_not_ready_and_says_what_it_waits_for",
            "test_c9_a_load_beyond_the_limit_ends_the_server",
            "test_e7_an_engine_that_never_comes_up_is_told_and_the_server_exits_after_the_limit",
            "test_e7_a_failed_proof_is_not_tried_again_until_a_file_changes",
        ),
        Broken(
            "nobody gives up",
            "service/start_limit.py",
            "elif not serving and not self._timer:",
            "elif False:",
            "test_c9_a_load_beyond_the_limit_ends_the_server",
        ),
    ),
    Row(
        "C10",
        "what killed engines leave in their temporary folder",
        ("test_c10_what_a_killed_engine_leaves_in_its_temporary_folder_is_wiped",),
        Broken(
            "nobody wipes it",
            "service/generations.py",
            "shutil.rmtree(engine.spec.temporary, ignore_errors=True)",
            "pass",
        ),
    ),
    Row(
        "E15",
        "no engine at all",
        ("test_e15_with_no_engine_at_all_a_request_waits_until_its_deadline",),
        Broken(
            "with no engine a request is refused",
            _CLIENT,
            "            self._orphans[pending.frame.id] = pending",
            "            pending.future.set_exception(NotReady('no engine'))",
        ),
    ),
    Row(
        "C6",
        "configuration errors of every kind",
        (
            "test_c6_every_fault_of_every_card_is_told_at_once_with_file_key_and_fix",
            "test_c6_two_models_and_no_default_are_told_with_their_names",
            "test_c6_a_wrong_setting_names_its_variable_and_what_it_is",
            "test_c6_an_unknown_key_of_gradless_toml_is_refused",
            "test_c6_a_device_that_is_not_there_is_told_with_those_that_are",
            "test_c6_a_port_in_use_is_told",
        ),
        Broken(
            "only the first card is read",
            "service/loader/repository.py",
            "            problems += error.problems\n            continue\n",
            "            raise\n",
            "test_c6_every_fault_of_every_card_is_told_at_once_with_file_key_and_fix",
        ),
    ),
    Row(
        "S1",
        "a pickle with code as weights, as torch writes it, as it once did, and plain",
        ("test_a_pickle_that_would_run_code_is_refused_and_runs_none",),
        Broken(
            "any pickle is loaded",
            "service/loader/weights.py",
            'content = torch.load(path, weights_only=True, map_location="cpu")',
            'content = torch.load(path, weights_only=False, map_location="cpu")',
        ),
    ),
    Row(
        "S2",
        "keys set: none, wrong, nearly right, in the query",
        (
            "test_s2_either_key_opens",
            "test_s2_anything_else_is_401",
            "test_s2_a_reload_needs_a_key_too",
            "test_s2_no_key_is_logged",
            "test_s2_changed_keys_hold_soon_and_a_bad_file_changes_nothing",
            "test_s2_a_file_without_keys_ends_the_start",
        ),
        Broken(
            "keys are not looked at",
            "service/frontend/predict.py",
            "            self._keys.check(request.headers)\n",
            "            pass\n",
            "test_s2_anything_else_is_401",
        ),
    ),
    Row(
        "S6",
        "operations on a port of their own",
        (
            "test_s6_what_operators_need_is_on_theirs_alone",
            "test_s6_predictions_are_on_the_clients_port_alone",
            "test_s6_two_ports_drain_under_load_and_lose_nothing",
        ),
        Broken(
            "the clients' port has them too",
            "service/frontend/app.py",
            "operators = self._app() if apart else clients",
            "operators = clients",
            "test_s6_what_operators_need_is_on_theirs_alone",
        ),
    ),
    Row(
        "E13",
        "64 file handles",
        ("test_e13_with_64_file_handles_it_serves_fewer_connections_and_says_so",),
        Broken(
            "as many connections as the settings say",
            "service/frontend/limits.py",
            "    most = max(1, (handles - OWN_HANDLES - 1) * 8 // 9)\n",
            "    most = wanted\n",
        ),
    ),
    Row(
        "S3",
        "a request id that would forge a header or a log line",
        (
            "test_a_request_id_that_could_forge_a_header_or_a_log_line_is_replaced",
            "test_s3_a_request_id_that_could_forge_is_replaced_in_the_answer_and_the_log",
            "test_s3_a_path_forges_no_line_of_the_log",
        ),
        Broken(
            "any id is echoed",
            "service/frontend/problems.py",
            "if stated and _SAFE_ID.fullmatch(stated) else",
            "if stated else",
            "test_a_request_id_that_could_forge_a_header_or_a_log_line_is_replaced",
        ),
    ),
    Row(
        "P1",
        "a compiled package with a flipped bit",
        ("test_one_flipped_bit_is_refused", "test_a_corrupted_package_is_refused_and_rebuilt_while_eager_answers"),
        Broken(
            "its hash is not looked at",
            _PACKAGES,
            "if digest != verdict.sha256:",
            "if False:",
            "test_one_flipped_bit_is_refused",
        ),
    ),
    Row(
        "P2",
        "a package, or its folder, that somebody else may have written",
        (
            "test_a_package_that_others_can_write_is_refused",
            "test_a_folder_that_others_can_write_is_refused_for_reading_and_writing",
            "test_a_package_of_another_user_is_refused",
        ),
        Broken(
            "nobody looks at the mode",
            _PACKAGES,
            "if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):",
            "if False:",
            "test_a_package_that_others_can_write_is_refused",
        ),
    ),
    Row(
        "P3",
        "a package that gives other answers than eager",
        ("test_a_package_that_gives_other_answers_is_not_kept",),
        Broken(
            "it is not held against eager",
            "service/compiler/compile.py",
            "if found.difference <= tolerance_of(model.module)]",
            "]",
        ),
    ),
    Row(
        "P4",
        "the turn to a package under load, ten kills, the compiler killed, the server ended while it compiles",
        (
            "test_a_cold_cache_serves_eager_at_once_and_turns_to_the_package_without_a_loss",
            "test_ten_kills_leave_one_package_and_lose_nothing",
            "test_a_compiler_that_is_killed_is_told_and_harms_nobody",
            "test_a_server_that_ends_takes_its_compiler_along",
        ),
        Broken(
            "nobody is told that it died",
            "service/compile_behind.py",
            'for model in unjudged if cause == "exit 0" else unjudged[:1]:',
            "for model in unjudged[:0]:",
            "test_a_compiler_that_is_killed_is_told_and_harms_nobody",
        ),
    ),
]

#: Rows that no test holds yet, and why.
LATER = {
    "S4": "there is no page yet",
    "S5": "the container comes with deployment",
}
