"""Faults in sampling, sharding, metrics and inference, each with the default test that sees it.

name: (mutation, "test module.function", its arguments); fixtures that pytest knows by itself need
no argument. `test_mutations` puts them into the code every night.
"""

from tests.twin.mutations import Mutation

SAMPLING = {
    "crops and flips not keyed by part": (
        Mutation(
            "data.examples.Examples:_augment",
            "[self.seed, PARTS.index(self.part), index]",
            "[self.seed, index]",
        ),
        "data.test_example_draws"
        ".test_the_same_record_is_cropped_and_flipped_otherwise_in_the_other_part",
        {},
    ),
    "bucket distance absolute": (
        Mutation("data.buckets.label_shape", "abs(math.log(b / longer))", "abs(b - longer)"),
        "data.test_buckets.test_the_nearest_bucket_is_the_one_that_stretches_least",
        {},
    ),
    "buckets chosen by absolute distance": (
        Mutation("data.buckets.choose", "np.log(lengths)", "lengths.astype(float)"),
        "data.test_buckets.test_lengths_are_chosen_by_their_ratio_too",
        {},
    ),
    "the second source's records numbered from 0": (
        Mutation("data.examples.plan", "start += size", "start += 0"),
        "data.test_example_draws"
        ".test_a_weighted_mixture_takes_each_source_as_often_as_its_weight_says",
        {},
    ),
    "sources of a mixture shuffled alike": (
        Mutation("data.examples.plan", "stable_seed(seed, part, i)", "stable_seed(seed, part)"),
        "data.test_example_draws.test_sources_of_one_size_are_shuffled_apart",
        {},
    ),
    "parts shuffled alike": (
        Mutation(
            "data.examples.plan", 'stable_seed(seed, part, "joint")', 'stable_seed(seed, "joint")'
        ),
        "data.test_example_draws.test_parts_and_seeds_are_shuffled_apart",
        {},
    ),
    "weights ignored": (
        Mutation("data.examples.plan", "weights=list(weights)", "weights=[1.0] * len(shuffled)"),
        "data.test_example_draws"
        ".test_a_weighted_mixture_takes_each_source_as_often_as_its_weight_says",
        {},
    ),
    "a source's first record read from the source before": (
        Mutation("data.examples.Examples:record_of", 'side="right"', 'side="left"'),
        "data.test_example_draws"
        ".test_every_record_of_every_source_comes_once_an_epoch_and_is_the_one_named",
        {},
    ),
    "no shuffle": (
        Mutation("data.examples.plan", "joint.shuffle().repeat()", "joint.repeat()"),
        "data.test_example_draws.test_parts_and_seeds_are_shuffled_apart",
        {},
    ),
    "every process the first rows": (
        Mutation(
            "data.pipeline._Steps:__getitem__",
            "start = step * total + self.process * rows",
            "start = step * total",
        ),
        "data.test_example_draws.test_processes_take_rows_of_their_own_and_steps_follow_each_other",
        {},
    ),
    "a step repeats rows of the one before": (
        Mutation(
            "data.pipeline._Steps:__getitem__", "start = step * total +", "start = step * rows +"
        ),
        "data.test_example_draws.test_processes_take_rows_of_their_own_and_steps_follow_each_other",
        {},
    ),
    "the record before stands in": (
        Mutation("data.examples.Examples:read", "(first + offset)", "(first - offset)"),
        "data.test_example_draws.test_a_record_that_fails_is_replaced_by_the_next_one",
        {},
    ),
    "one corner never drawn": (
        Mutation("data.transforms.draw_geometry", "new_w - crop_w + 1", "new_w - crop_w"),
        "data.test_transforms.test_corners_reach_both_ends",
        {},
    ),
    "camera cropped at the other corner": (
        Mutation(
            "data.transforms.apply_geometry",
            "camera.cropped(c, geometry.top, geometry.left)",
            "camera.cropped(c, geometry.left, geometry.top)",
        ),
        "data.test_camera.test_resize_crop_and_flip_carry_the_camera",
        {"hw": (60, 97), "flip": False},
    ),
    "camera resized without its half pixel": (
        Mutation("data.camera.resized", "(c.cx + 0.5) * x - 0.5", "c.cx * x"),
        "data.test_camera.test_resize_crop_and_flip_carry_the_camera",
        {"hw": (60, 97), "flip": False},
    ),
    "camera flipped about the edge": (
        Mutation("data.camera.flipped", "width - 1 - c.cx", "width - c.cx"),
        "data.test_camera.test_resize_crop_and_flip_carry_the_camera",
        {"hw": (60, 97), "flip": True},
    ),
    "network size rounded half up": (
        Mutation(
            "data.transforms.network_size",
            "int(np.round(length / patch_size))",
            "int(length / patch_size + 0.5)",
        ),
        "data.test_transforms.test_rounding_is_half_to_even",
        {},
    ),
    "box's area drawn anew with each proposal": (
        Mutation("training.perturb.draw_boxes", "u[1, 0]", "u[1]"),
        "training.test_perturb.test_boxes_are_distributed_as_by_rejection",
        {"h": 56, "w": 56},
    ),
    "every part of the batch draws alike": (
        Mutation("training.perturb.example_keys", "start + jnp.arange", "jnp.arange"),
        "training.test_perturb.test_draws_hang_on_seed_step_and_global_index_alone",
        {},
    ),
    "partner from the other side": (
        Mutation("training.perturb.partner", "jnp.roll(x, shift", "jnp.roll(x, -shift"),
        "training.test_perturb.test_partner_and_mix_take_pixels_and_labels_from_the_same_image",
        {},
    ),
    "overshoot not clipped before the jitter": (
        Mutation(
            "training.perturb.apply_colour",
            "jnp.clip(at_least_float32(images), 0, 1)",
            "at_least_float32(images)",
        ),
        "training.test_perturb.test_overshoot_of_the_resize_is_clipped_before_the_jitter",
        {},
    ),
    "gradient term over contributing pixels": (
        Mutation("losses.relative._gradient_term", "jnp.sum(v, axis", "jnp.sum(u, axis"),
        "losses.test_relative_properties"
        ".test_the_gradient_term_counts_the_valid_pixels_of_regions_that_contribute_nothing",
        {"x64": None},
    ),
}

SHARDING = {
    "batch split over data alone": (
        Mutation(
            "parallel.device_programs.batch_sharding",
            "tuple(mesh.axis_names)",
            "mesh.axis_names[0]",
        ),
        "training.test_optim.test_a_batch_is_split_over_all_devices_whatever_the_mesh",
        {"data": 4, "fsdp": 2},
    ),
    "blocks split along depth": (
        Mutation("parallel.sharding._fsdp_spec", '1 if "blocks/" in path else 0', "0"),
        "training.test_optim.test_stacked_blocks_are_split_along_width_not_depth",
        {},
    ),
    "the smallest axis split": (
        Mutation("parallel.placement.kernel_spec", "max(axes", "min(axes"),
        "training.test_optim.test_stacked_blocks_are_split_along_width_not_depth",
        {},
    ),
    "an axis split that does not divide": (
        Mutation("parallel.placement.kernel_spec", "if n % size == 0", "if True"),
        "training.test_optim.test_stacked_blocks_are_split_along_width_not_depth",
        {},
    ),
    "nothing split": (
        Mutation("parallel.sharding.tree_shardings", 'if rule == "fsdp"', 'if rule == "none"'),
        "training.test_optim.test_stacked_blocks_are_split_along_width_not_depth",
        {},
    ),
    "accumulation forgotten in the batch's check": (
        Mutation(
            "parallel.sharding.check_batch", "unit = mesh.size * accumulation", "unit = mesh.size"
        ),
        "training.test_optim.test_a_batch_that_does_not_divide_names_a_batch_size_that_works",
        {"sizes": {"labelled": 24, "unlabelled": 16}, "accumulation": 2, "wrong": "labelled",
         "step": 80, "fit": 80},
    ),
    "the running average not loaded": (
        Mutation(
            "checkpoints.orbax_io.load_params",
            '"ema" if ema and stored.get("ema") else "params"',
            '"params"',
        ),
        "checkpoints.test_orbax_io.test_the_running_average_is_loaded_where_there_is_one",
        {"kept": True},
    ),
    "the parameters scored in spite of a running average": (
        Mutation(
            "training.monitor.Evaluator:__call__",
            "state.params if state.ema is None else state.ema",
            "state.params",
        ),
        "training.test_monitor.test_the_running_average_is_scored_where_there_is_one",
        {},
    ),
    "LayerNorm's statistics in bfloat16": (
        Mutation("models.vit.layer_norm", "y = widen(x)", "y = x"),
        "models.test_models.test_layer_norm_of_bfloat16_has_statistics_of_float32",
        {},
    ),
    "the rate of the next update logged": (
        Mutation("training.metrics_buffer.MetricsBuffer:fetch", "done - 1) |", "done) |"),
        "training.test_monitor.test_the_rate_that_is_logged_is_that_of_the_update_that_was_made",
        {},
    ),
}  # fmt: skip

_HANDS = "evaluation.scores.test_metrics.test_errors_by_hand"
_FORMULAS = "evaluation.scores.test_metrics.test_errors_follow_their_formulas_pixel_by_pixel"
_SUMS = "evaluation.scores.metrics._sums"
_BOUNDARY = "evaluation.scores.test_boundary.test_boundary_f1_follows_its_definition"
_PROGRAMS = "evaluation.scores.test_boundary.test_depth_pros_and_moges_follow_their_programs"
_POOLS = "evaluation.scores.test_aggregate.test_pixel_pools_are_the_metrics_of_all_pixels"
METRICS = {
    "RMSE log without its bias": (
        Mutation(
            "evaluation.scores.metrics.errors", "math.sqrt(variance + bias**2)",
            "math.sqrt(variance)",
        ),
        _HANDS,
        {},
    ),
    "SILog without the spread between parts": (
        Mutation("evaluation.scores.metrics.errors", "mean[LOG + 1] + between", "mean[LOG + 1]"),
        _FORMULAS,
        {"part": 64},
    ),
    "delta's limit itself counts as right": (
        Mutation(_SUMS, "ratio < DELTA**k", "ratio <= DELTA**k"),
        "evaluation.scores.test_metrics.test_delta_limits_themselves_count_as_wrong",
        {},
    ),
    "delta one-sided": (
        Mutation(_SUMS, "np.maximum(ratio, 1 / ratio, out=ratio)", "pass"),
        _HANDS,
        {},
    ),
    "AbsRel over the prediction": (
        Mutation(_SUMS, "np.abs(difference) / g", "np.abs(difference) / positive"),
        _HANDS,
        {},
    ),
    "a negative depth's absolute value": (
        Mutation(_SUMS, "np.maximum(p, TINY)", "np.maximum(np.abs(p), TINY)"),
        "evaluation.scores.test_metrics.test_a_depth_of_zero_or_below_is_wrong_and_finite",
        {},
    ),
    "ties of pairs count as right": (
        Mutation("evaluation.scores.metrics.pair_accuracy", "near > far if", "near >= far if"),
        "evaluation.scores.test_metrics.test_pair_accuracy_knows_ties_swaps_and_depth",
        {},
    ),
    "WHDR unweighted": (
        Mutation("evaluation.scores.metrics.whdr", "weights=weight", "weights=None"),
        "evaluation.scores.test_metrics.test_whdr_by_hand",
        {},
    ),
    "upper median of a score": (
        Mutation("evaluation.scores.metrics.lower_median", "(x.size - 1) // 2", "x.size // 2"),
        "evaluation.scores.test_metrics.test_lower_median",
        {},
    ),
    "normalised by the standard deviation": (
        Mutation("evaluation.scores.metrics.normalise", "np.mean(np.abs(x))", "np.std(x)"),
        "evaluation.scores.test_metrics.test_normalised_l1_by_hand",
        {},
    ),
    "interval one-sided": (
        Mutation(
            "evaluation.scores.metrics._bootstrap",
            "[(1 - level) / 2, (1 + level) / 2]",
            "[1 - level, level]",
        ),
        "evaluation.scores.test_metrics.test_interval_of_a_normal_sample_agrees_with_theory",
        {},
    ),
    "boundaries of either direction": (
        Mutation(
            "evaluation.scores.boundary.pooled", "in_p & in_g & ((jump_p > 0) == (jump_g > 0))",
            "in_p & in_g",
        ),
        _BOUNDARY,
        {"seed": 0},
    ),
    "thresholds weighted alike": (
        Mutation("evaluation.scores.boundary._f1", "weights=RATIOS[some]", "weights=None"),
        _BOUNDARY,
        {"seed": 0},
    ),
    "a square for a disc": (
        Mutation(
            "evaluation.scores.boundary.pooled", "dy * dy + dx * dx <= r * r",
            "max(abs(dy), abs(dx)) <= r",
        ),
        _BOUNDARY,
        {"seed": 0},
    ),
    "Depth Pro's edges of one sign": (
        Mutation("evaluation.scores.boundary.depth_pro", "for sign in (1, -1)", "for sign in (1,)"),
        _PROGRAMS,
        {"seed": 0},
    ),
    "MoGe's weights those of Depth Pro": (
        Mutation("evaluation.scores.boundary.moge", "weights=RATIOS - 1", "weights=RATIOS"),
        _PROGRAMS,
        {"seed": 0},
    ),
    "pools without weights": (
        Mutation(
            "evaluation.scores.aggregate._over_pixels",
            "_mean([v * v for v in values], weights)", "_mean([v * v for v in values])",
        ),
        _POOLS,
        {},
    ),
    "pooled SILog without the spread between images": (
        Mutation(
            "evaluation.scores.aggregate._over_pixels", " + (i.log_bias - bias) ** 2", ""
        ),
        _POOLS,
        {},
    ),
}  # fmt: skip

_TILES = "inference.test_model.test_tiles_in_scales_of_their_own_give_the_whole_again"
_EDGES = "inference.test_depth.test_edges_and_the_far_are_left_out"
_POINTS = "inference.test_depth.test_points_lie_where_the_camera_says"
_METRES = "inference.test_depth.test_metres_from_points_and_from_a_sparse_map"
INFERENCE = {
    "tiles without overlap": (
        Mutation("inference.tiles._starts", "(size * (1 - OVERLAP))", "size"),
        "inference.test_model.test_windows_cover_the_picture_and_overlap",
        {},
    ),
    "tiles upside down accepted": (
        Mutation("inference.tiles.blend", "if found.scale > 0", "if found.scale"),
        "inference.test_model.test_a_tile_that_contradicts_the_whole_map_is_left_out",
        {},
    ),
    "tiles scaled and not shifted": (
        Mutation("inference.tiles.blend", " + np.float32(found.shift)", ""),
        _TILES,
        {},
    ),
    "tiles' ends with full weight": (
        Mutation("inference.tiles._fade", "np.sin(np.pi", "np.cos(np.pi"),
        "inference.test_model.test_tiles_fade_towards_their_edges",
        {},
    ),
    "field of view of the width": (
        Mutation("inference.camera_intrinsics.of_fov", "max(shape[:2])", "shape[1]"),
        "inference.test_depth.test_where_intrinsics_come_from",
        {},
    ),
    "points' rows counted from below": (
        Mutation(
            "inference.metric_alignment._at_points", "x = relative[rows", "x = relative[::-1][rows"
        ),
        _METRES,
        {},
    ),
    "an edge relative to the farther side": (
        Mutation("inference.point_cloud.edges", "np.minimum(before", "np.maximum(before"),
        _EDGES,
        {},
    ),
    "one side of an edge kept": (
        Mutation(
            "inference.point_cloud.edges",
            "        for part in (slice(None, -1), slice(1, None)):\n",
            "        for part in (slice(None, -1),):\n",
        ),
        _EDGES,
        {},
    ),
    "points above mirrored below": (
        Mutation("inference.point_cloud.of_depth", "(rows - how.cy)", "(how.cy - rows)"),
        _POINTS,
        {},
    ),
    "points at the corners of pixels": (
        Mutation("inference.point_cloud.of_depth", "- how.cx) /", "+ 0.5 - how.cx) /"),
        _POINTS,
        {},
    ),
    "the sky nearer than the median": (
        Mutation("inference.point_cloud._assumed", "median / relative", "relative / median"),
        "inference.test_depth.test_a_relative_map_has_no_shape_unless_one_is_assumed",
        {},
    ),
    "beyond far kept": (
        Mutation("inference.point_cloud.of_depth", "keep &= values <= far", "pass"),
        _EDGES,
        {},
    ),
    "outliers pull the robust fit": (
        Mutation("inference.metric_alignment.fit", "if robust else", "if False else"),
        "inference.test_depth.test_a_robust_fit_bears_wrong_points",
        {},
    ),
}  # fmt: skip
ALL = SAMPLING | SHARDING | METRICS | INFERENCE
