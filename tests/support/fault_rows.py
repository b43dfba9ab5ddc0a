"""The rows of the fault matrix, with the tests that hold them and the way each was broken once."""

from __future__ import annotations

from tests.support.fault_matrix import Broken, Row

_CLIENT = "service/frontend/engines/client.py"
_BLAME = "service/frontend/engines/blame.py"
_RUNNER = "service/engine/runner.py"
_GUARD = "service/engine/guard.py"
_SUPERVISOR = "service/supervisor/tree.py"
_DECODER = "service/tasks/inputs/picture.py"
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
        Broken("EXIF is not looked at", _DECODER, "upright(image, header.orientation)", "image"),
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
            "test_i7_a_body_that_comes_byte_by_byte_is_408",
            "test_i7_headers_that_do_not_end_are_408",
            "test_i7_slow_headers_on_a_connection_that_has_been_answered_are_408_too",
            "test_i7_endless_headers_are_431",
            "test_i7_a_thousand_idle_connections_harm_nobody_and_are_closed",
        ),
        Broken(
            "headers have all the time in the world",
            "service/frontend/http_connection.py",
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
            "service/tasks/inputs/picture_bodies.py",
            "    _count_first(body, most)\n",
            "",
        ),
    ),
    Row(
        "I12",
        "one bad picture in a multipart of several",
        ("test_one_bad_picture_of_several_is_named",),
        Broken(
            "the words do not say which", "service/frontend/predict.py", "Picture {len(examples)} of", "A picture of"
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
        Broken(
            "PNGs go to torchvision's decoder",
            "service/tasks/inputs/pictures/png.py",
            "import with_pillow\n",
            "import with_torchvision as with_pillow\n",
        ),
    ),
    Row(
        "I15",
        "a header that a reader and a decoder could understand differently: crafted, and 20,000 at random",
        (
            "test_every_picture_of_the_cases_gets_what_it_should",
            "test_nothing_between_the_segments_hides_the_size",
            "test_the_size_that_is_read_is_the_size_that_any_decoder_sees",
        ),
        Broken(
            "a stuffed byte is taken for a segment",
            "service/tasks/inputs/pictures/jpeg.py",
            r'rb"\xff[^\x00\x01\xd0-\xd7\xff]"',
            r'rb"\xff[^\x01\xd0-\xd7\xff]"',
            "test_nothing_between_the_segments_hides_the_size",
        ),
    ),
    Row(
        "I16",
        "more scans than a JPEG of its size needs: progressive, sequential, thin, small, hidden",
        (
            "test_i16_a_jpeg_that_asks_for_more_work_than_its_pixels_is_refused_and_others_do_not_wait",
            "test_i16_on_both_sides_of_the_bound",
            "test_i16_a_photograph_of_as_many_pixels_as_allowed_is_answered",
        ),
        Broken(
            "nobody counts scans",
            _DECODER,
            "if header.passes > most:",
            "if False:",
            "test_i16_on_both_sides_of_the_bound",
        ),
    ),
    Row(
        "I17",
        "a deadline that comes while a body is sent, read or decoded",
        (
            "test_i17_a_deadline_is_kept_while_a_picture_is_being_decoded",
            "test_i17_a_deadline_is_kept_while_a_body_is_being_sent",
            "test_i17_a_large_body_does_not_keep_others_waiting",
            "test_nobody_waits_for_a_large_body_past_the_deadline",
        ),
        Broken(
            "decoding has all the time in the world",
            "service/frontend/predict.py",
            "return await by_deadline(deadline, doing, self._decode_in_pool(reader, given))",
            "return await self._decode_in_pool(reader, given)",
            "test_i17_a_deadline_is_kept_while_a_picture_is_being_decoded",
        ),
    ),
    Row(
        "I18",
        "a multipart body that is cut, not closed or damaged: never fewer predictions than files",
        (
            "test_every_request_of_the_cases_gets_what_it_should",
            "test_a_form_that_is_cut_short_is_refused_wherever_it_ends",
            "test_a_body_cut_anywhere_is_refused",
            "test_no_damage_makes_fewer_files_without_a_word",
        ),
        Broken(
            "a part need not end",
            "service/tasks/inputs/multipart.py",
            '    raise Malformed(\n        f"Part {number} of the multipart body (counting from 0) does',
            '    return\n    raise Malformed(\n        f"Part {number} of the multipart body (counting from 0) does',
            "test_a_body_cut_anywhere_is_refused",
        ),
    ),
    Row(
        "I19",
        "an orientation in every format, in every place where it may stand",
        (
            "test_a_picture_is_turned_as_pillow_turns_it_wherever_its_orientation_stands",
            "test_an_orientation_out_of_the_ordinary_is_treated_alike_in_every_format",
        ),
        Broken(
            "WebP has none",
            "service/tasks/inputs/pictures/webp.py",
            "        orientation(exif, xmp),\n",
            "        1,\n",
            "test_a_picture_is_turned_as_pillow_turns_it_wherever_its_orientation_stands",
        ),
    ),
    Row(
        "E1",
        "`kill -9` of the engine under load, three times, and at random moments under mixed load",
        (
            "test_e1_kills_of_the_engine_fail_no_request_and_no_counter_falls",
            "test_e1_the_default_model_serves_on_over_kills_of_its_engine",
            "test_kills_at_random_moments_under_mixed_load_lose_nothing_and_answer_nothing_twice",
        ),
        Broken(
            "what a dead engine had not answered is refused, not sent again",
            _CLIENT,
            "                self._metrics.replayed.labels(pending.frame.model).inc()\n",
            "                pending.future.set_exception(NotReady('gone'))\n                continue\n",
            "test_e1_kills_of_the_engine_fail_no_request_and_no_counter_falls",
        ),
    ),
    Row(
        "E2",
        "an input that makes the engine segfault",
        ("test_e2_a_picture_that_crashes_the_model_costs_two_engines_and_fails_alone",),
        Broken("one strike is enough", _BLAME, "if pending.frame.alone:", "if True:"),
    ),
    Row(
        "E2b",
        "three SIGKILLs with one innocent request aboard",
        ("test_e2b_three_kills_with_a_lonely_request_aboard_are_not_its_fault",),
        Broken("a SIGKILL is a strike", _BLAME, "KILLS_FOR_A_STRIKE = 5", "KILLS_FOR_A_STRIKE = 1"),
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
            "service/supervisor/watchdog.py",
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
        Broken(
            "nobody looks for NaN", "service/tasks/adapters/heads.py", "if not 0 <= value <= MOST_PROBABLE", "if False"
        ),
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
            "a failed proof is served all the same", "service/engine/bring_up.py", "if not report.passed:", "if False:"
        ),
    ),
    Row(
        "E11",
        "a front end is killed",
        ("test_e11_a_killed_front_end_is_replaced_and_the_others_connections_live",),
        Broken(
            "a dead front end is not replaced",
            "service/supervisor/front_ends.py",
            "await asyncio.sleep(0.0 if lived > BACKOFF_SECONDS else BACKOFF_SECONDS)",
            "return",
        ),
    ),
    Row(
        "E12",
        "the supervisor is killed",
        ("test_e12_when_the_supervisor_is_killed_everything_ends",),
        Broken(
            "children ignore the end of their lifeline",
            "service/wire/child.py",
            "    def connection_lost(self, exc: Exception | None) -> None:\n        end_process(1)",
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
        Broken("its process lives on", "service/engine/worker.py", "            end_process(1)", "            return"),
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
        Broken(
            "nobody is refused for the time it would take",
            "service/frontend/engines/places.py",
            "if outlook.wait and finish > deadline:",
            "if False:",
        ),
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
            "service/frontend/http_connection.py",
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
            "service/frontend/http_connection.py",
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
            "        given = await self._read(exchange",
            "        self.__dict__.setdefault('kept', []).append(body * 4)\n        given = await self._read(exchange",
        ),
    ),
    Row(
        "L7",
        "probes and scrapes, each on a connection of its own",
        ("test_l7_probes_and_scrapes_on_connections_of_their_own_cost_nothing_that_stays",),
        Broken(
            "each probe leaves a handle open",
            "service/frontend/operations.py",
            '        return json_response({"status": "live"})\n',
            '        client.__dict__.setdefault("kept", []).append(open("/dev/null"))\n'
            '        return json_response({"status": "live"})\n',
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
        "L10",
        "stderr that nobody reads, that is gone, closed or full; decoders that complain on it",
        (
            "test_a_stderr_that_nobody_reads_stops_nothing_and_tells_later_what_is_missing_and_a_reader_may_hang_up",
            "test_a_burst_that_somebody_reads_comes_whole_and_in_order_and_so_do_the_last_lines_of_every_process",
            "test_a_decoder_that_complains_on_a_stuck_stderr_stops_nothing",
            "test_an_engine_is_killed_and_replaced_while_stderr_is_stuck_and_sigterm_drains_in_time",
            "test_a_front_end_that_dies_is_replaced_while_stderr_is_stuck_and_a_killed_supervisor_takes_all_along",
            "test_a_stderr_that_is_closed_or_full_at_the_start_stops_nothing",
        ),
        Broken(
            "lines are written where they are logged",
            "service/logs.py",
            "logging.StreamHandler(STDERR.stream())",
            "logging.StreamHandler(sys.__stderr__)",
            "test_a_stderr_that_nobody_reads_stops_nothing_and_tells_later_what_is_missing_and_a_reader_may_hang_up",
        ),
    ),
    Row(
        "C1",
        "SIGTERM under load, to the parent and to the group",
        (
            "test_c1_sigterm_under_load_loses_nothing_and_leaves_no_process_and_no_file",
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
            "test_it_says_that_it_serves_only_once_somebody_listens_and_ctrl_c_of_it_idle_ends_it_well",
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
            "service/supervisor/generations.py",
            "        self._tell_of(device, engine)\n        if before:\n",
            "        if not before:\n            self._tell_of(device, engine)\n        if before:\n",
            "test_c3_a_model_replaced_under_load_is_switched_to_and_every_answer_is_of_one_version",
        ),
    ),
    Row(
        "C4",
        "a change that is bad: a card, weights, a model that fails its proof",
        ("test_c4_a_bad_change_changes_nothing_and_is_told_until_a_reload_succeeds",),
        Broken(
            "a worse generation is turned to",
            "service/supervisor/reload.py",
            "if device.current and (problems := faults(device.models, engine.models)):",
            "if False and (problems := []):",
        ),
    ),
    Row(
        "C8",
        "generations one after another under load",
        ("test_c8_generations_one_after_another_under_load_cost_nothing_that_stays",),
        Broken(
            "the old generation is not told to end",
            "service/supervisor/generations.py",
            "            self._lives.retire(before)\n        self._changed(device)\n\n    async",
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
            "reasons = reasons_not_ready(client, is_draining())",
            "reasons = reasons_not_ready(client, False)",
        ),
    ),
    Row(
        "C7",
        "the clock is set back an hour, forward two, and back one (libfaketime)",
        ("test_c7_a_clock_that_is_set_back_or_forward_makes_nothing_time_out",),
        Broken(
            "children take the time of day for their deadlines",
            "service/wire/child.py",
            '    setproctitle.setproctitle(f"gradless: {name}")\n',
            '    setproctitle.setproctitle(f"gradless: {name}")\n'
            "    import time\n\n    time.monotonic = time.time  # type: ignore[assignment]\n",
        ),
    ),
    Row(
        "C11",
        "with `--watch`: models behind links that are swapped, an unreadable folder, a folder gone for a while",
        (
            "test_c11_an_unreadable_folder_among_the_models_asks_for_no_reload_and_hides_no_change",
            "test_c11_each_swap_of_the_models_link_is_taken_up_and_so_is_an_edit_after_it",
            "test_c11_each_swap_of_a_models_own_link_is_taken_up_and_so_is_an_edit_after_it",
            "test_c11_each_swap_of_a_config_map_is_taken_up",
            "test_c11_models_that_are_gone_for_a_while_are_served_on_and_taken_up_when_they_are_back",
            "test_c11_a_change_between_the_first_read_of_the_cards_and_the_start_of_the_engines_is_taken_up",
        ),
        Broken(
            "a look does not follow links",
            "service/supervisor/watch.py",
            "            status = (models / name).stat()\n",
            "            status = (models / name).lstat()\n",
            "test_c11_each_swap_of_the_models_link_is_taken_up_and_so_is_an_edit_after_it",
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
            "service/supervisor/start_limit.py",
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
            "service/supervisor/lives.py",
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
            "            self._orphans.add(pending)",
            "            pending.future.set_exception(NotReady('no engine'))",
        ),
    ),
    Row(
        "F1",
        "a cleaner removes the temporary files while it serves, all at once and one after another",
        (
            "test_without_its_temporary_files_it_recovers_replays_reloads_counts_on_and_drains",
            "test_each_temporary_file_and_each_of_the_cache_may_be_removed_in_turn",
            "test_a_removed_socket_is_put_back_for_front_ends_to_come",
            "test_without_temporary_files_and_cache_a_compiler_ends_in_a_verdict",
        ),
        Broken(
            "a removed socket is not put back",
            "service/engine/process.py",
            "loop.create_task(address.keep())",
            "loop.create_task(asyncio.sleep(0))",
            "test_a_removed_socket_is_put_back_for_front_ends_to_come",
        ),
    ),
    Row(
        "F2",
        "the disk of temporary files is full, or cannot be written, while it serves; a full cache",
        (
            "test_on_a_full_disk_nothing_dies_and_all_is_counted",
            "test_while_the_disk_cannot_be_written_starts_fail_and_are_tried_again",
            "test_with_a_cache_that_is_full_it_serves_and_says_what_it_could_not_keep",
        ),
        Broken(
            "an engine that cannot be started ends the server",
            "service/supervisor/generations.py",
            'except (OSError, EOFError) as error:\n            log.error("engine could',
            'except ZeroDivisionError as error:\n            log.error("engine could',
            "test_while_the_disk_cannot_be_written_starts_fail_and_are_tried_again",
        ),
    ),
    Row(
        "F3",
        "a start with a TMPDIR that is absent, read-only or full",
        ("test_a_start_without_a_usable_tmpdir_is_told",),
        Broken("tempfile goes elsewhere in silence", "service/host/run_folder.py", "dir=wanted or None", "dir=None"),
    ),
    Row(
        "F4",
        "generations come and go: each memory file is let go with its engine",
        ("test_generations_leave_no_memory_file_behind",),
        Broken("an aboard file stays open", "service/supervisor/lives.py", "        engine.spec.aboard.close()\n", ""),
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
            "    return [problem for fault in faulty.values() for problem in fault.problems]\n",
            "    return next(iter(faulty.values())).problems\n",
            "test_c6_every_fault_of_every_card_is_told_at_once_with_file_key_and_fix",
        ),
    ),
    Row(
        "N1",
        "weights that torch loads: tied, of an old torch, DenseNet's old names, weight_norm of old",
        (
            "test_a_tied_model_that_safetensors_saved_is_loaded",
            "test_weights_of_an_old_torch_lack_num_batches_tracked_and_are_loaded",
            "test_densenets_files_have_old_names_and_are_loaded",
            "test_weight_norm_of_old_is_loaded_into_the_parametrization_of_today",
        ),
        Broken(
            "ties do not count",
            "service/loader/state.py",
            "return [name for name in missing if not is_tied(named.get(name))]",
            "return list(missing)",
            "test_a_tied_model_that_safetensors_saved_is_loaded",
        ),
    ),
    Row(
        "N5",
        "a `load_state_dict` of the operator's own that leaves a tensor as drawn",
        ("test_nothing_is_left_as_it_was_drawn_in_silence",),
        Broken(
            "its word is taken",
            "service/loader/state.py",
            "(left := _left_as_drawn(module, before, state))",
            "(left := [])",
        ),
    ),
    Row(
        "N6",
        "two models with files of one name beside the architecture, and their reload under load",
        (
            "test_two_models_with_files_of_one_name_have_their_own",
            "test_files_beside_an_architecture_are_each_models_own_and_change_with_a_reload_under_load",
        ),
        Broken(
            "one package for all",
            "service/loader/code.py",
            "{next(_numbers)}",
            "1",
            "test_two_models_with_files_of_one_name_have_their_own",
        ),
    ),
    Row(
        "N7",
        "a file beside the architecture called as an installed module",
        ("test_an_installed_module_comes_before_a_file_of_its_name_and_the_log_says_so",),
        Broken(
            "the file hides it",
            "service/loader/code.py",
            "found is not None and not self._is_passed_over(root)",
            "found is not None",
        ),
    ),
    Row(
        "N8",
        "code and data that change beside the architecture, or are imported late",
        (
            "test_the_version_changes_with_a_file_that_the_code_reads",
            "test_what_no_version_names_is_not_imported_late",
        ),
        Broken(
            "data is in no version",
            "service/loader/code.py",
            "if path not in self._covered and path.is_file()",
            "if False",
            "test_the_version_changes_with_a_file_that_the_code_reads",
        ),
    ),
    Row(
        "N9",
        "an import that finds nothing, a syntax error, an exit, no factory",
        (
            "test_an_architecture_that_cannot_be_made_is_told_in_words",
            "test_a_file_that_cannot_be_imported_is_told_with_its_line",
            "test_a_file_beside_an_architecture_that_cannot_be_imported_is_told_and_changes_nothing",
        ),
        Broken(
            "no word of installing",
            "service/errors.py",
            "_fix(error) or fix",
            "fix",
            "test_an_architecture_that_cannot_be_made_is_told_in_words",
        ),
    ),
    Row(
        "N10",
        "a package called `service` on PYTHONPATH and in the working directory",
        ("test_a_package_called_service_on_pythonpath_or_in_the_working_directory_hides_nothing_of_ours",),
        Broken(
            "the fork server takes what it finds",
            "service/supervisor/processes.py",
            '["gradless", "service.supervisor.preload"]',
            '["service.supervisor.preload"]',
        ),
    ),
    Row(
        "M1",
        "labels in UTF-8 under C, POSIX and Latin-1",
        (
            "test_labels_are_what_their_file_says_under_any_locale",
            "test_predict_prints_labels_and_names_of_files_and_check_speaks_under_any_locale",
            "test_a_file_that_is_not_utf_8_is_told_before_the_port_opens",
        ),
        Broken(
            "labels are read as the locale says",
            "service/loader/labels.py",
            'split_lines(read_text(file, "labels"))',
            "file.read_text().splitlines()",
            "test_labels_are_what_their_file_says_under_any_locale",
        ),
    ),
    Row(
        "M2",
        "Kubernetes' service links, and an `.env` of others",
        ("test_a_pod_with_service_links_and_an_env_file_of_others_is_served",),
        Broken("a link is a setting", "service/settings.py", " if name not in links}", "}"),
    ),
    Row(
        "M3",
        "a user without a name and a home",
        (
            "test_a_user_without_a_name_and_a_home_is_served_and_its_proof_is_kept",
            "test_a_package_is_compiled_for_a_user_without_a_name_and_a_home",
        ),
        Broken(
            "the cache is where the home would be",
            "service/settings.py",
            "            return usable_cache(stated)\n",
            "            return stated\n",
            "test_a_user_without_a_name_and_a_home_is_served_and_its_proof_is_kept",
        ),
    ),
    Row(
        "M4",
        "half a quota in the own cgroup",
        ("test_half_a_quota_of_the_own_cgroup_alone_counts_as_one_core",),
        Broken(
            "only the root is looked at",
            "service/host/cores.py",
            'cgroups("cpu", mount, own)',
            '[("v1", mount / "cpu"), ("v2", mount)]',
        ),
    ),
    Row(
        "M5",
        "standard descriptors closed, in every combination",
        (
            "test_predict_and_check_do_without_each_standard_descriptor_and_a_closed_input_is_told_as_empty",
            "test_a_refusal_does_not_go_to_standard_output_where_standard_error_is_closed",
            "test_a_server_does_without_what_it_does_not_use",
        ),
        Broken(
            "Python keeps None",
            "service/host/descriptors.py",
            "if getattr(sys, name) is None:",
            "if False:",
            "test_a_refusal_does_not_go_to_standard_output_where_standard_error_is_closed",
        ),
    ),
    Row(
        "M6",
        "hidden and unreadable folders among the models",
        (
            "test_what_editors_and_volumes_leave_among_the_models_is_passed_over",
            "test_a_folder_that_may_be_a_model_and_cannot_be_read_is_told",
        ),
        Broken(
            "hidden folders are models",
            "service/loader/repository.py",
            'not each.name.startswith(".") and ',
            "",
            "test_what_editors_and_volumes_leave_among_the_models_is_passed_over",
        ),
    ),
    Row(
        "M7",
        "every counter at 0 before its first event",
        (
            "test_every_metric_has_a_sample_before_anything_has_happened",
            "test_what_an_alert_or_a_person_looks_for_is_there_at_0",
        ),
        Broken(
            "replays appear with the first",
            "service/metrics.py",
            "        metrics.replayed.labels(model)\n",
            "",
            "test_every_metric_has_a_sample_before_anything_has_happened",
        ),
    ),
    Row(
        "R1",
        "what is not HTTP/1.1: other protocols, broken heads, two lengths, bad chunks, endless framing",
        (
            "test_what_is_not_http_is_refused_in_words_counted_and_the_connection_ends",
            "test_a_chunk_that_cannot_be_read_is_the_requests_refusal",
            "test_framing_that_goes_on_without_a_byte_of_a_body_is_refused",
            "test_requests_before_one_that_is_not_http_have_their_answers",
        ),
        Broken(
            "the head is not looked at",
            "service/frontend/request_reader.py",
            "request_heads.check_head(self.parser.get_http_version(), self.url, self.headers)",
            "False",
            "test_what_is_not_http_is_refused_in_words_counted_and_the_connection_ends",
        ),
    ),
    Row(
        "R2",
        "upgrades, white space, targets, digits without end; then another request on the connection",
        (
            "test_what_is_http_is_answered_and_so_is_the_next_request",
            "test_an_upgrade_is_ignored_wherever_its_bytes_are_split",
        ),
        Broken(
            "the parser ends at an upgrade",
            "service/frontend/request_reader.py",
            "self._parse_on(memoryview(data)[upgrade.args[0] :])",
            "pass",
            "test_an_upgrade_is_ignored_wherever_its_bytes_are_split",
        ),
    ),
    Row(
        "R3",
        "a client that closed its half, and one that has gone",
        (
            "test_a_client_that_has_closed_its_half_gets_its_answer_and_the_end",
            "test_a_client_that_waits_long_with_its_half_closed_gets_its_answer",
            "test_a_client_that_has_gone_frees_its_place",
        ),
        Broken(
            "nobody is asked whether it is there",
            "service/frontend/http_connection.py",
            "self.transport.write(_CONTINUE)",
            "pass",
            "test_a_client_that_has_gone_frees_its_place",
        ),
    ),
    Row(
        "R4",
        "HEAD, wrong methods, a slash too many",
        (
            "test_head_is_get_without_the_body",
            "test_a_method_that_a_path_lacks_is_405_with_those_that_it_has",
            "test_a_slash_too_many_leads_to_the_path_wherever_the_server_is_seen",
        ),
        Broken(
            "no Allow",
            "service/errors.py",
            'return {"Allow": ", ".join(sorted(self.allowed))}',
            "return {}",
            "test_a_method_that_a_path_lacks_is_405_with_those_that_it_has",
        ),
    ),
    Row(
        "R5",
        "coded bodies, broken and beyond the limit",
        (
            "test_what_was_coded_comes_back",
            "test_anything_else_is_refused",
            "test_no_more_than_the_bound_is_ever_held",
            "test_a_body_that_unfolds_beyond_the_limit_is_413_and_is_not_kept",
        ),
        Broken(
            "unfolds without a bound",
            "service/frontend/codings.py",
            "stream.decompress(piece, most + 1 - len(whole))",
            "stream.decompress(piece)",
            "test_no_more_than_the_bound_is_ever_held",
        ),
    ),
    Row(
        "R6",
        "hosts and certificates that cannot be served",
        (
            "test_any_other_host_is_blamed_on_the_host_alone",
            "test_any_other_pair_is_refused_in_words",
            "test_a_certificate_without_a_key_ends_the_start",
        ),
        Broken(
            "the certificate is not looked at",
            "service/cli.py",
            "    check_certificate(settings)\n",
            "",
            "test_a_certificate_without_a_key_ends_the_start",
        ),
    ),
    Row(
        "S1",
        "a pickle with code as weights, as torch writes it, as it once did, and plain",
        ("test_a_pickle_that_would_run_code_is_refused_and_runs_none",),
        Broken(
            "any pickle is loaded",
            "service/loader/checkpoint.py",
            'torch.load(file, weights_only=True, map_location="cpu")',
            'torch.load(file, weights_only=False, map_location="cpu")',
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
            "            self._keys.check(headers)\n",
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
            "service/frontend/applications.py",
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
            "test_kills_leave_one_package_and_lose_nothing",
            "test_a_compiler_that_is_killed_is_told_and_harms_nobody",
            "test_a_server_that_ends_takes_its_compiler_along",
        ),
        Broken(
            "nobody is told that it died",
            "service/supervisor/compile_behind.py",
            'for model in unjudged if cause == "exit 0" else unjudged[:1]:',
            "for model in unjudged[:0]:",
            "test_a_compiler_that_is_killed_is_told_and_harms_nobody",
        ),
    ),
    Row(
        "T1",
        "a missing, unknown or doubled input; wrong dtypes and shapes; npy and npz files that are not what they say",
        (
            "test_t1_json_that_does_not_fit_is_told_by_instance_and_input",
            "test_t1_a_name_that_comes_twice_is_refused",
            "test_t1_arrays_that_do_not_fit_are_told_by_input",
            "test_t1_a_file_that_is_not_what_its_header_says_is_refused",
            "test_t1_a_zip_with_a_name_twice_or_a_bomb_in_it_is_refused",
            "test_t1_other_byte_orders_and_fortran_s_order_are_read",
        ),
        Broken(
            "an array's shape is believed",
            "service/tasks/inputs/tensor_bodies.py",
            "if array.dtype != wanted or array.ndim != 1 + len(spec.shape) or array.shape[1:] != spec.shape:",
            "if False:",
            "test_t1_arrays_that_do_not_fit_are_told_by_input",
        ),
    ),
    Row(
        "T1 (v2)",
        "inputs of another name, datatype or shape, dimensions that are negative or huge, over Open Inference Protocol",
        (
            "test_t1_v2_says_which_input_does_not_fit_what_was_found_and_what_is_wanted",
            "test_t1_v2_says_so_of_a_picture_too",
            "test_t1_instances_that_do_not_fit_are_told_by_instance_and_input",
            "test_t1_csv_that_does_not_fit_is_told_by_line",
            "test_t1_nothing_that_is_refused_has_come_into_a_batch",
        ),
        Broken(
            "a stated shape is believed",
            "service/frontend/protocols/open_inference/request.py",
            "if NAMES[spec.dtype] == given.datatype and tuple(given.shape[1:]) == spec.shape:",
            "if True:",
            "test_t1_v2_says_which_input_does_not_fit_what_was_found_and_what_is_wanted",
        ),
    ),
    Row(
        "T2",
        "binary sizes and lengths that do not add up, in JSON's header and in BYTES",
        (
            "test_t2_sizes_that_do_not_add_up_are_refused",
            "test_t2_a_header_past_a_body_that_is_json_alone_is_refused_too",
            "test_t2_a_raw_body_is_one_example_to_the_byte",
            "test_t2_bytes_whose_lengths_do_not_add_up_are_refused",
        ),
        Broken(
            "bytes that belong to no input are passed over",
            "service/frontend/protocols/open_inference/exchange.py",
            "if at < len(data):",
            "if False:",
            "test_t2_sizes_that_do_not_add_up_are_refused",
        ),
    ),
    Row(
        "T3",
        "NaN, infinities, numbers that the dtype does not have; a million of them nested eight deep, and ragged",
        (
            "test_t3_a_number_that_the_dtype_does_not_have_is_refused",
            "test_t3_the_last_number_that_a_dtype_has_comes_back",
            "test_t3_a_million_numbers_nested_eight_deep_are_read",
            "test_t3_a_million_numbers_of_which_one_row_is_ragged_are_refused_within_a_tenth_of_a_second",
            "test_t3_not_a_number_passes_in_npy_where_no_range_forbids_it",
        ),
        Broken(
            "what is too large for a dtype becomes infinite",
            "service/tasks/inputs/numbers.py",
            "        _check_fits(spec, array)\n",
            "        pass\n",
            "test_t3_a_number_that_the_dtype_does_not_have_is_refused",
        ),
    ),
    Row(
        "T4",
        "ids beyond an embedding",
        (
            "test_t4_ids_beyond_the_range_are_refused_and_named",
            "test_t4_without_a_range_ids_beyond_an_embedding_cost_their_own_request_alone",
        ),
        Broken(
            "nobody looks at the range",
            "service/tasks/inputs/numbers.py",
            "if not within.all():",
            "if False:",
            "test_t4_ids_beyond_the_range_are_refused_and_named",
        ),
    ),
    Row(
        "T5",
        "bodies behind gzip and deflate: right, broken, unknown, and a bomb",
        (
            "test_t5_a_coded_body_has_the_answer_of_the_body",
            "test_t5_a_coding_that_is_broken_or_unknown_is_refused",
            "test_t5_a_bomb_of_a_thousand_to_one_is_refused_at_the_limit",
        ),
        Broken(
            "a body unfolds to whatever it likes",
            "service/frontend/codings.py",
            "if len(whole) > most:",
            "if False:",
            "test_t5_a_bomb_of_a_thousand_to_one_is_refused_at_the_limit",
        ),
    ),
    Row(
        "T6",
        "requested outputs that do not exist, parameters of unknown names, an id of a megabyte",
        (
            "test_t6_requested_outputs_that_do_not_exist_or_come_twice_are_refused",
            "test_t6_parameters_of_unknown_names_and_unknown_keys_are_passed_over",
            "test_t6_an_id_comes_back_up_to_a_length_and_one_of_a_megabyte_is_refused",
        ),
        Broken(
            "any output may be requested",
            "service/frontend/protocols/open_inference/request.py",
            "if output.name not in there:",
            "if False:",
            "test_t6_requested_outputs_that_do_not_exist_or_come_twice_are_refused",
        ),
    ),
    Row(
        "T7",
        "an empty batch, more than a request may have, and single numbers in several batches",
        (
            "test_t7_no_instances_too_many_and_none_of_the_batch_are_refused",
            "test_t7_more_instances_than_a_batch_holds_come_back_in_order",
        ),
        Broken(
            "nobody counts the rows of an array",
            "service/tasks/inputs/tensor_bodies.py",
            "        if count > most:",
            "        if False:",
            "test_t7_no_instances_too_many_and_none_of_the_batch_are_refused",
        ),
    ),
    Row(
        "T9",
        "outputs of another shape or dtype than at the start, a dict without its key, NaN",
        (
            "test_t9_an_answer_that_is_not_what_it_was_at_the_start_fails_its_own_example",
            "test_t9_its_neighbours_in_the_batch_are_answered",
        ),
        Broken(
            "outputs are taken as they come",
            "service/tasks/adapters/adapter.py",
            "if output.dtype is not dtype or output.shape != (count, *spec.shape):",
            "if False:",
            "test_t9_an_answer_that_is_not_what_it_was_at_the_start_fails_its_own_example",
        ),
    ),
    Row(
        "T10",
        "the same ten pictures and ten batches of tensors over every protocol",
        (
            "test_t10_ten_pictures_have_the_same_classes_over_every_protocol",
            "test_t10_ten_batches_of_tensors_have_the_same_numbers_over_every_protocol",
        ),
        Broken(
            "bytes of an answer come in another order",
            "service/frontend/protocols/open_inference/datatypes.py",
            "return array.tobytes()",
            "return array[::-1].tobytes()",
            "test_t10_ten_batches_of_tensors_have_the_same_numbers_over_every_protocol",
        ),
    ),
]

#: Rows that no test holds yet, and why.
LATER = {
    "S4": "there is no page yet",
    "S5": "the container comes with deployment",
}
