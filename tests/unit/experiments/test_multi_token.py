import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from experiments.batches import encode_answers, encode_prompts
from experiments.building import load_model, save_model
from experiments.losses import further_loss, sft_loss
from experiments.models.decoder import Decoder
from experiments.models.multi_token import MultiTokenDecoder, further_logits, new_decoder
from experiments.models.shared_prompt import completion_logits
from experiments.tasks import CharTokenizer
from orchestrator.schema.training import AttentionKind, ModelConfig, PredictionConfig, PredictionKind

TOKENIZER = CharTokenizer()
VOCAB = TOKENIZER.vocab_size
CPU = torch.device("cpu")


def shape(depth=2, **options) -> ModelConfig:
    prediction = PredictionConfig(PredictionKind.multi_token, depth)
    size = {"d_model": 32, "layers": 2, "heads": 4, "kv_heads": 4, "d_ff": 48}
    return ModelConfig(**{**size, **options}, prediction=prediction)


def multi_token_decoder(depth=2, scale=0.2, seed=0, **options) -> MultiTokenDecoder:
    """With weights that matter: a fresh one is the identity in every layer."""
    generator = torch.Generator().manual_seed(seed)
    decoder = new_decoder(shape(depth, **options), VOCAB, generator)
    assert isinstance(decoder, MultiTokenDecoder)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return decoder


def batch(texts=("1+1=", "12+34="), answers=("22", "4689")):
    return encode_prompts(texts, TOKENIZER, CPU), encode_answers(answers, TOKENIZER, CPU)


def by_the_paper(decoder: MultiTokenDecoder, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Equations 21 to 23, row by row, of one sequence without padding: logits of every row of every module."""
    rows = torch.arange(tokens.shape[1])
    hidden = decoder.hidden(tokens, rows)
    logits = []
    for k, module in enumerate(decoder.further, 1):
        pairs = []
        for i in range(tokens.shape[1] - k):
            token = decoder.embedding(tokens[:, i + k])
            pairs.append(torch.cat((module.hidden_norm(hidden[:, i]), module.token_norm(token)), dim=-1))
        joined = F.linear(torch.stack(pairs, dim=1), module.joining.weight)
        sight = torch.ones(joined.shape[1], joined.shape[1], dtype=torch.bool).tril()
        from experiments.models.attention import Sight

        hidden = module.layer(joined, decoder._rotation(rows[: joined.shape[1]], joined.shape[1]), Sight(sight), None)
        logits.append(decoder.logits(module.norm(hidden)))
    return logits


def test_without_its_modules_it_is_the_decoder_of_the_same_seed():
    plain = Decoder(shape(), VOCAB, torch.Generator().manual_seed(3)).state_dict()
    multi = new_decoder(shape(), VOCAB, torch.Generator().manual_seed(3))
    assert all(torch.equal(weight, plain[name]) for name, weight in multi.state_dict().items() if name in plain)
    prompts, answers = batch()
    first = completion_logits(multi, prompts.tokens, answers.tokens, prompts.padding)
    torch.testing.assert_close(
        further_logits(multi, prompts.tokens, answers.tokens, prompts.padding)[0], first, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("attention", list(AttentionKind))
def test_modules_compute_the_papers_equations(attention):
    decoder = multi_token_decoder(attention=attention)
    prompts, answers = batch(["12+34="], ["4689"])
    _, *further = further_logits(decoder, prompts.tokens, answers.tokens)
    sequence = torch.cat((prompts.tokens, answers.tokens), dim=1)
    first = prompts.tokens.shape[1] - 1
    for k, (logits, expected) in enumerate(zip(further, by_the_paper(decoder, sequence), strict=True), 1):
        # The last row's module predicts beyond the sequence.
        torch.testing.assert_close(logits, expected[:, first:-1], atol=1e-4, rtol=1e-4)
        assert logits.shape[1] == answers.tokens.shape[1] - k


def test_padding_and_company_change_nothing():
    decoder = multi_token_decoder()
    prompts, answers = batch()
    together = further_logits(decoder, prompts.tokens, answers.tokens, prompts.padding)
    alone, answer = batch(["1+1="], ["22"])
    single = further_logits(decoder, alone.tokens, answer.tokens)
    for some, one in zip(together, single, strict=True):
        torch.testing.assert_close(some[:1, : one.shape[1]], one, atol=1e-4, rtol=1e-4)


def test_a_groups_completions_are_those_of_repeated_prompts():
    decoder = multi_token_decoder()
    prompts, answers = batch(["1+1=", "12+34="], ["22", "23", "4689", "1"])
    grouped = further_logits(decoder, prompts.tokens, answers.tokens, prompts.padding)
    first = completion_logits(decoder, prompts.tokens, answers.tokens, prompts.padding)
    torch.testing.assert_close(grouped[0], first, atol=1e-4, rtol=1e-4)


def test_answers_shorter_than_the_depth_have_no_loss_there():
    decoder = multi_token_decoder(depth=3)
    prompts, answers = batch(["1+1="], ["2"])  # two tokens with EOS
    _, *further = further_logits(decoder, prompts.tokens, answers.tokens)
    assert [logits.shape[1] for logits in further] == [1, 0, 0]
    loss = further_loss(further, answers.tokens, answers.mask)
    expected = sft_loss(further[0], answers.tokens[:, 1:], answers.mask[:, 1:], token_count=2) / 3
    torch.testing.assert_close(loss, expected)


def test_the_losses_of_micro_batches_add_up_to_that_of_the_batch():
    decoder = multi_token_decoder()
    prompts, answers = batch()
    count = int(answers.mask.sum())
    whole = further_loss(
        further_logits(decoder, prompts.tokens, answers.tokens, prompts.padding)[1:], answers.tokens, answers.mask
    )
    parts = []
    for row in range(2):
        some = prompts.select(torch.tensor([row]))
        tokens, mask = answers.tokens[row : row + 1], answers.mask[row : row + 1]
        logits = further_logits(decoder, some.tokens, tokens, some.padding)
        parts.append(further_loss(logits[1:], tokens, mask, count))
    torch.testing.assert_close(sum(parts), whole)


def test_its_loss_teaches_the_modules_and_the_decoder_under_them():
    decoder = multi_token_decoder()
    prompts, answers = batch()
    _, *further = further_logits(decoder, prompts.tokens, answers.tokens, prompts.padding)
    further_loss(further, answers.tokens, answers.mask).backward()
    for name in ("further.0.joining.weight", "further.1.layer.attention.qkv.weight", "layers.0.attention.qkv.weight"):
        gradient = decoder.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_an_output_has_the_modules(tmp_path):
    decoder = multi_token_decoder()
    save_model(decoder, decoder.config, tmp_path)
    loaded = load_model(decoder.config, tmp_path, CPU)
    assert isinstance(loaded, MultiTokenDecoder)
    assert all(torch.equal(weight, decoder.state_dict()[name]) for name, weight in loaded.state_dict().items())
