"""Names that programs and people give to the columns of a table of runs."""

from collections.abc import Mapping

NAMES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "run": (
        ("trajectory", "trajectory_id"),
        ("run", "run_name", "run_id"),
        ("name", "display_name", "experiment_name", "exp_name", "id"),
    ),
    "N": (
        (
            *("non_embedding_params", "non_embedding_parameters", "non_emb_params", "n_non_embedding", "n_nonemb"),
            *("params_non_embedding", "parameters_non_embedding", "num_non_embedding_params", "params_non_emb"),
            *("n_params_non_embedding", "n_non_embedding_params", "num_params_non_embedding", "nonembedding_params"),
            *("num_non_embedding_parameters", "non_embedding_param_count", "n_non_emb", "non_embedding_size"),
        ),
        (
            *("params", "n_params", "num_params", "nparams", "param_count", "params_count", "parameters", "n_param"),
            *("num_parameters", "n_parameters", "parameter_count", "model_size", "model_params", "model_parameters"),
            *("size", "number_of_parameters", "param", "n_model_params"),
        ),
        (
            *("total_params", "total_parameters", "n_params_total", "params_total", "num_total_params"),
            *("total_param_count", "params_with_embeddings", "all_params", "parameters_total", "n_total_params"),
        ),
    ),
    "D": (
        (
            *("tokens", "n_tokens", "num_tokens", "train_tokens", "training_tokens", "tokens_seen", "total_tokens"),
            *("tokens_total", "n_train_tokens", "num_train_tokens", "tokens_trained", "consumed_tokens", "ntokens"),
            *("tokens_consumed", "token_count", "seen_tokens", "tokens_processed", "n_training_tokens"),
            *("num_training_tokens", "total_train_tokens", "train_tokens_seen", "tokens_train", "trained_tokens"),
        ),
    ),
    "loss": (
        (
            *("loss", "val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "dev_loss", "final_loss"),
            *("final_val_loss", "final_eval_loss", "final_validation_loss", "final_valid_loss", "loss_val"),
            *("loss_valid", "loss_eval", "loss_final", "heldout_loss", "held_out_loss", "lm_loss", "cross_entropy"),
            *("val_cross_entropy", "val_ce", "ce_loss", "val_ce_loss", "nll", "val_nll", "eval_nll", "val_loss_final"),
            *("loss_validation", "final_test_loss", "eval_ce_loss"),
        ),
    ),
    "weights": (
        ("weights",),
        (
            *("w_format", "weight_format", "weights_format", "w_quant", "weight_quant", "weight_quantization"),
            *("w_dtype", "weight_dtype", "weights_dtype", "w_precision", "weight_precision", "format_w", "wformat"),
            *("weights_quant", "weights_precision", "w_quantization", "weights_quantization", "quant_w", "w_type"),
        ),
        ("w_bits", "weight_bits", "weights_bits", "wbits", "bits_w", "w_bit", "num_bits_weight"),
        (
            *("format", "quantization", "quant", "precision", "scheme", "quant_scheme", "quantization_scheme"),
            *("quantisation", "quant_format", "number_format", "representation", "dtype"),
        ),
    ),
    "activations": (
        ("activations",),
        (
            *("a_format", "activation_format", "activations_format", "act_format", "a_quant", "activation_quant"),
            *("act_quant", "activation_quantization", "a_dtype", "activation_dtype", "act_dtype", "a_precision"),
            *("activation_precision", "act_precision", "format_a", "aformat", "activations_quant", "acts"),
            *("activations_dtype", "activations_precision", "a_quantization", "act", "quant_a", "a_type", "activation"),
        ),
        ("a_bits", "activation_bits", "activations_bits", "act_bits", "abits", "bits_a", "a_bit"),
    ),
    "gradients": (
        ("gradients",),
        (
            *("grad_format", "gradient_format", "gradients_format", "g_format", "format_g", "grad_quant", "g_quant"),
            *("gradient_quant", "gradients_quant", "gradient_quantization", "grad_quantization", "grad_dtype"),
            *("gradient_dtype", "gradients_dtype", "grad_precision", "gradient_precision", "gradients_precision"),
            *("backward_format", "bwd_format", "backward_quant", "backward_precision", "bwd_precision"),
            *("backward_dtype", "bwd_dtype", "backward_recipe", "g_dtype", "g_precision"),
        ),
        ("grad_bits", "gradient_bits", "gradients_bits", "g_bits", "gbits", "bits_g", "backward_bits", "bwd_bits"),
    ),
    "status": (("status",), ("state", "run_state", "run_status")),
    "seed": (("seed",), ("random_seed", "rng_seed", "seed_id", "init_seed")),
    "family": (("family",), ("model_family",)),
    "loss_se": (("loss_se",), ("loss_stderr", "val_loss_se", "val_loss_stderr", "loss_sem", "loss_std_err")),
    "weights_gmse": (("weights_gmse",), ("w_gmse", "weight_gmse")),
    "activations_gmse": (("activations_gmse",), ("a_gmse", "act_gmse", "activation_gmse")),
}
"""Names in lower case with underscores, best first: a later tier is looked at where no earlier one is there."""
EXACT = (
    *("weights_estimator", "activations_estimator", "hadamard", "default_estimators", "weight"),
    *("cache", "correction", "policy"),
    *("weights_realised_error", "weights_realised_error_end", "weights_pass_rate", "weights_pass_rate_end"),
    *("weights_pass_rate_gaussian", "bits_per_byte"),
)
"""Ours that are known by their own name alone."""
