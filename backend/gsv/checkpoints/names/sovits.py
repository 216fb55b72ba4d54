"""Names of ``s2Gv4.pth`` → names of ``gsv.models.sovits.SoVITS``."""

from __future__ import annotations

from gsv.checkpoints.names.table import NameTable

_ENCODERS = {
    "enc_p.encoder_ssl": "text_encoder.content_encoder",
    "enc_p.encoder_text": "text_encoder.phoneme_encoder",
    "enc_p.encoder2": "text_encoder.output_encoder",
}
_ENCODER_LAYER = {
    "attn_layers.#.emb_rel_k": "layers.#.attention.relative_keys",
    "attn_layers.#.emb_rel_v": "layers.#.attention.relative_values",
    "attn_layers.#.conv_q.*": "layers.#.attention.query.*",
    "attn_layers.#.conv_k.*": "layers.#.attention.key.*",
    "attn_layers.#.conv_v.*": "layers.#.attention.value.*",
    "attn_layers.#.conv_o.*": "layers.#.attention.output.*",
    "norm_layers_1.#.gamma": "layers.#.attention_norm.weight",
    "norm_layers_1.#.beta": "layers.#.attention_norm.bias",
    "ffn_layers.#.conv_1.*": "layers.#.feed_forward.expand.*",
    "ffn_layers.#.conv_2.*": "layers.#.feed_forward.reduce.*",
    "norm_layers_2.#.gamma": "layers.#.feed_forward_norm.weight",
    "norm_layers_2.#.beta": "layers.#.feed_forward_norm.bias",
}
_OUTSIDE_ESTIMATOR: dict[str, str | None] = {
    "enc_p.ssl_proj.*": "text_encoder.content_in.*",
    "enc_p.text_embedding.weight": "text_encoder.phoneme_embedding.weight",
    "enc_p.mrte.c_pre.*": "text_encoder.fusion.content_in.*",
    "enc_p.mrte.text_pre.*": "text_encoder.fusion.text_in.*",
    "enc_p.mrte.c_post.*": "text_encoder.fusion.output.*",
    "enc_p.mrte.cross_attention.conv_q.*": "text_encoder.fusion.attention.query.*",
    "enc_p.mrte.cross_attention.conv_k.*": "text_encoder.fusion.attention.key.*",
    "enc_p.mrte.cross_attention.conv_v.*": "text_encoder.fusion.attention.value.*",
    "enc_p.mrte.cross_attention.conv_o.*": "text_encoder.fusion.attention.output.*",
    "ref_enc.spectral.0.fc.*": "style_encoder.spectral_in.*",
    "ref_enc.spectral.3.fc.*": "style_encoder.spectral_out.*",
    "ref_enc.temporal.#.conv1.conv.*": "style_encoder.temporal.#.convolution.*",
    "ref_enc.slf_attn.w_qs.*": "style_encoder.attention.query.*",
    "ref_enc.slf_attn.w_ks.*": "style_encoder.attention.key.*",
    "ref_enc.slf_attn.w_vs.*": "style_encoder.attention.value.*",
    "ref_enc.slf_attn.fc.*": "style_encoder.attention.output.*",
    "ref_enc.fc.fc.*": "style_encoder.output.*",
    "ssl_proj.*": "quantizer.projection.*",
    "quantizer.vq.layers.0._codebook.embed": "quantizer.codebook",
    "bridge.0.*": "bridge.*",
    "wns1.pre.*": "wavenet.input.*",
    "wns1.proj.*": "wavenet.output.*",
    "wns1.enc.cond_layer.*": "wavenet.timbre.*",
    "wns1.enc.in_layers.#.*": "wavenet.gates.#.*",
    "wns1.enc.res_skip_layers.#.*": "wavenet.outs.#.*",
    # Training's own: the prior's statistics, the mel loss, the codebook's running averages.
    "enc_p.proj.*": None,
    "linear_mel.*": None,
    "quantizer.vq.layers.0._codebook.inited": None,
    "quantizer.vq.layers.0._codebook.cluster_size": None,
    "quantizer.vq.layers.0._codebook.embed_avg": None,
}
_ESTIMATOR = {
    "time_embed.time_mlp.0.*": "time.expand.*",
    "time_embed.time_mlp.2.*": "time.output.*",
    "d_embed.time_mlp.0.*": "step_size.expand.*",
    "d_embed.time_mlp.2.*": "step_size.output.*",
    "text_embed.text_blocks.#.dwconv.*": "condition.blocks.#.depthwise.*",
    "text_embed.text_blocks.#.norm.*": "condition.blocks.#.norm.*",
    "text_embed.text_blocks.#.pwconv1.*": "condition.blocks.#.expand.*",
    "text_embed.text_blocks.#.pwconv2.*": "condition.blocks.#.reduce.*",
    "text_embed.text_blocks.#.grn.gamma": "condition.blocks.#.response.gamma",
    "text_embed.text_blocks.#.grn.beta": "condition.blocks.#.response.beta",
    "input_embed.proj.*": "input.*",
    "input_embed.conv_pos_embed.conv1d.0.*": "position.first.*",
    "input_embed.conv_pos_embed.conv1d.2.*": "position.second.*",
    "rotary_embed.inv_freq": "inverse_frequencies",
    "transformer_blocks.#.attn_norm.linear.*": "modulations.#.*",
    "transformer_blocks.#.attn.to_q.*": "blocks.#.attention.query.*",
    "transformer_blocks.#.attn.to_k.*": "blocks.#.attention.key.*",
    "transformer_blocks.#.attn.to_v.*": "blocks.#.attention.value.*",
    "transformer_blocks.#.attn.to_out.0.*": "blocks.#.attention.output.*",
    "transformer_blocks.#.ff.ff.0.0.*": "blocks.#.expand.*",
    "transformer_blocks.#.ff.ff.2.*": "blocks.#.reduce.*",
    "norm_out.linear.*": "final_modulation.*",
    "proj_out.*": "output.*",
}

_TABLE = NameTable(
    _OUTSIDE_ESTIMATOR
    | {
        f"{e}.{k}": f"{ours}.{v}"
        for e, ours in _ENCODERS.items()
        for k, v in _ENCODER_LAYER.items()
    }
    | {f"cfm.estimator.{k}": f"flow.estimator.{v}" for k, v in _ESTIMATOR.items()}
)


def rename(key: str) -> str | None:
    """Our name for one key of the file.

    Returns:
        The name; None for a key that synthesis doesn't need and that is dropped on purpose.

    Raises:
        KeyError: the key is not one of this file's (``enc_q.*`` and the like).
    """
    return _TABLE.rename(key)
