from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from drhn_cli.network.config import Layer, NetworkConfig
from drhn_cli.network.drhn import DRHN
from drhn_cli.training.recipe import load_recipe
from tests.networks import lite_config, tiny_config

PAPER = replace(load_recipe("paper").network, n_classes=10)
FAST = NetworkConfig(n_classes=10)
SHAPES = [
    PAPER,
    FAST,
    tiny_config(),
    tiny_config(blocks=3, downsample="stride", hash_norm=False),
    tiny_config(widths=(2, 3, 5, 5, 7, 9), downsample_at=(1, 2, 6), stem_stride=2, bits=11, nested=(3,)),
    tiny_config(downsample_at=(), input_size=9),
    tiny_config(downsample_at=(4,), downsample="stride", stem_stride=2, n_classes=2),
]
LITE = [lite_config(0), lite_config(1, input_size=33, hash_norm=False), lite_config(2, input_size=50)]


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("config", SHAPES)
def test_a_network_has_six_groups_of_n_convolutions_and_a_stem(config):
    network = DRHN(config)
    assert [len(list(group.children())) for group in network.groups.children()] == [config.blocks] * 6
    assert len(convolutions(network)) == 6 * config.blocks + 1
    assert all(conv.kernel_size == (3, 3) and conv.bias is None for conv in convolutions(network))


def test_the_paper_network_has_the_parameters_that_a_hand_counts():
    stem = 3 * 16 * 9 + 2 * 16
    stage_1 = 30 * (16 * 16 * 9 + 2 * 16)
    stage_2 = (16 * 32 * 9 + 2 * 32) + 29 * (32 * 32 * 9 + 2 * 32)
    stage_3 = (32 * 64 * 9 + 2 * 64) + 29 * (64 * 64 * 9 + 2 * 64)
    head = (64 * 48 + 48) + (48 * 10 + 10)
    assert len(convolutions(DRHN(PAPER))) == 91
    assert sum(p.numel() for p in DRHN(PAPER).parameters()) == stem + stage_1 + stage_2 + stage_3 + head


def test_the_fast_network_has_the_parameters_that_a_hand_counts():
    stem = 3 * 64 * 9 + 2 * 64
    stage_1 = 4 * (64 * 64 * 9 + 2 * 64)
    stage_2 = (64 * 128 * 9 + 2 * 128) + 3 * (128 * 128 * 9 + 2 * 128)
    stage_3 = (128 * 256 * 9 + 2 * 256) + 3 * (256 * 256 * 9 + 2 * 256)
    head = (256 * 48 + 2 * 48) + (48 * 10 + 10)  # no bias before a norm
    assert len(convolutions(DRHN(FAST))) == 13
    assert sum(p.numel() for p in DRHN(FAST).parameters()) == stem + stage_1 + stage_2 + stage_3 + head


@pytest.mark.parametrize("config", [*SHAPES, *LITE])
def test_array_shapes_is_the_state_of_the_network(config):
    state = {name: tuple(value.shape) for name, value in DRHN(config).state_dict().items()}
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert list(config.array_shapes().items()) == [(name, state[name]) for name in state if name not in counters]


@pytest.mark.parametrize("config", [*SHAPES, *LITE])
@torch.inference_mode()
def test_multiply_adds_are_those_of_the_layers_that_run(config):
    counted = 0

    def count(module, _, output):
        nonlocal counted
        counted += output[0].numel() * module.weight[0].numel()

    network = DRHN(config).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    activations = network(torch.zeros(1, 3, config.input_size, config.input_size))
    assert activations.shape == (1, config.bits)
    network.classify(activations)
    assert counted == config.multiply_adds()


def naive_convolution(x, filters, stride):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    side = (x.shape[2] - 1) // stride + 1
    y = np.zeros((len(x), len(filters), side, side))
    for row in range(side):
        for column in range(side):
            patch = padded[:, :, row * stride : row * stride + 3, column * stride : column * stride + 3]
            y[:, :, row, column] = np.einsum("ncij,ocij->no", patch, filters)
    return y


def one_block(in_channels, out_channels, *, stride=1, pool=False):
    """The settings of a network whose trunk is a single block."""
    halves = stride == 2 or pool

    class OneBlock(NetworkConfig):
        def layers(self):
            return [
                Layer(
                    conv="block.conv",
                    norm="block.norm",
                    in_channels=in_channels,
                    out_channels=out_channels,
                    in_side=6,
                    stride=stride,
                    max_pool=pool,
                    opens_block=True,
                    closes_block=True,
                    shortcut_pool=2 if halves else 1,
                )
            ]

    return OneBlock(n_classes=2, widths=(out_channels,) * 6, bits=4, input_size=8)


def quarters(x):
    """(n, c, s, s) -> (4, n, c, s / 2, s / 2): the four pixels of each 2 x 2 square."""
    return np.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])


@pytest.mark.parametrize("channels", [(3, 3), (3, 5)])
@pytest.mark.parametrize(("stride", "pool"), [(1, False), (2, False), (1, True)])
def test_a_block_is_its_shortcut_plus_norm_of_relu_of_convolution(channels, stride, pool):
    torch.manual_seed(0)
    network = DRHN(one_block(*channels, stride=stride, pool=pool)).double().eval()
    block = network.block
    for values in (block.norm.weight, block.norm.bias, block.norm.running_mean, block.norm.running_var):
        values.data.uniform_(0.5, 2)
    x = np.random.default_rng(0).normal(size=(2, channels[0], 6, 6))

    y = naive_convolution(x, block.conv.weight.detach().numpy(), stride)
    if pool:
        y = quarters(y).max(axis=0)
    scale, shift, mean, var = (
        values.detach().numpy()[:, None, None]
        for values in (block.norm.weight, block.norm.bias, block.norm.running_mean, block.norm.running_var)
    )
    y = (np.maximum(y, 0) - mean) / np.sqrt(var + block.norm.eps) * scale + shift
    shortcut = quarters(x).mean(axis=0) if stride == 2 or pool else x
    expected = y.copy()
    expected[:, : channels[0]] += shortcut  # new channels get zeros

    assert np.allclose(network.features(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-12)


def test_the_shortcut_has_no_parameters():
    network = DRHN(one_block(3, 5, pool=True))
    parameters = {name.rsplit(".", 1)[0] for name, _ in network.named_parameters()}
    assert parameters == {"block.conv", "block.norm", "hash", "hash_norm", "classify"}


@pytest.mark.parametrize("n", range(1, 16))
def test_every_depth_of_the_paper_learns_in_every_convolution(n):
    torch.manual_seed(n)
    network = DRHN(replace(PAPER, n_classes=3, blocks=n, widths=(2, 2, 3, 3, 4, 4), input_size=8))
    scores = network.scores(network(torch.randn(4, 3, 8, 8)))
    nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2, 0])).backward()
    gradients = [conv.weight.grad for conv in convolutions(network)]
    assert len(gradients) == 6 * n + 1
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)


def test_activations_are_the_sigmoid_of_a_linear_layer_on_channel_means():
    torch.manual_seed(0)
    network = DRHN(tiny_config(hash_norm=False)).eval()
    x = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        stem = network.stem_norm(torch.relu(network.stem_conv(x)))
        inputs = []
        network.get_submodule("groups.0.0.conv").register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        features = network.features(x)
        assert torch.equal(inputs[0], stem)
        assert features.shape == (3, 32, 2, 2)
        means = features.flatten(2).mean(dim=2)
        expected = 1 / (1 + torch.exp(-(means @ network.hash.weight.T + network.hash.bias)))
        assert torch.allclose(network(x), expected, atol=1e-6)


def test_scores_of_a_prefix_use_only_its_units():
    torch.manual_seed(0)
    network = DRHN(tiny_config(nested=(4,)))
    activations = torch.rand(5, 16)
    others = torch.cat([activations[:, :4], torch.rand(5, 12)], dim=1)
    assert torch.equal(network.scores(activations, 4), network.scores(others, 4))
    assert not torch.equal(network.scores(activations), network.scores(others))
    assert torch.allclose(network.scores(activations), network.classify(activations), atol=1e-6)


def test_activations_stay_full_precision_in_bfloat16():
    network = DRHN(tiny_config()).eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        activations = network(torch.randn(2, 3, 16, 16))
    assert activations.dtype == torch.float32


def naive_same_convolution(x, filters, stride):
    """As TensorFlow's documentation says it: outputs are centered over the input, an odd zero is at the end."""
    side, kernel = x.shape[2], filters.shape[2]
    out_side = -(-side // stride)
    n_rows = max((out_side - 1) * stride + kernel - side, 0)
    padded = np.pad(x, [(0, 0), (0, 0), *[(n_rows // 2, n_rows - n_rows // 2)] * 2])
    y = np.zeros((len(x), len(filters), out_side, out_side))
    for row, column in np.ndindex(out_side, out_side):
        top, left = row * stride, column * stride
        patch = padded[:, :, top : top + kernel, left : left + kernel]
        if filters.shape[1] == 1 < x.shape[1]:  # depthwise
            y[:, :, row, column] = np.einsum("ncij,cij->nc", patch, filters[:, 0])
        else:
            y[:, :, row, column] = np.einsum("ncij,ocij->no", patch, filters)
    return y


@pytest.mark.parametrize("side", [32, 37])
def test_inverted_bottlenecks_are_those_of_their_papers(side):
    """The first four blocks, written out: without expansion, with a stride, with the input added."""
    torch.manual_seed(0)
    network = DRHN(lite_config(input_size=side)).double().eval()
    for name, values in network.state_dict().items():
        if "norm" in name and values.is_floating_point():
            values.uniform_(0.5, 2)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    seen = []
    network.get_submodule("blocks.3.expand_conv").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = np.random.default_rng(0).normal(size=(2, 3, side, side))
    network.features(torch.from_numpy(x))

    def normed(x, name, stride=1):
        x = naive_same_convolution(x, state[f"{name}_conv.weight"], stride)
        parts = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (state[f"{name}_norm.{part}"][:, None, None] for part in parts)
        return (x - mean) / np.sqrt(var + 1e-3) * weight + bias

    def relu6(x):
        return np.clip(x, 0, 6)

    x = relu6(normed(x, "stem", 2))
    x = normed(relu6(normed(x, "blocks.0.depthwise")), "blocks.0.project")
    x = normed(relu6(normed(relu6(normed(x, "blocks.1.expand")), "blocks.1.depthwise", 2)), "blocks.1.project")
    x = x + normed(relu6(normed(relu6(normed(x, "blocks.2.expand")), "blocks.2.depthwise")), "blocks.2.project")
    assert np.allclose(seen[0].detach().numpy(), x, atol=1e-9)


def test_features_of_unit_length_go_into_the_hash_layer():
    torch.manual_seed(0)
    config = tiny_config(hash_norm=False)
    network, unit = DRHN(config).eval(), DRHN(replace(config, unit_features=True)).eval()
    unit.load_state_dict(network.state_dict())
    x = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        pooled = network.pooled_features(x)
        assert torch.equal(pooled, network.features(x).mean(dim=(2, 3)))
        pooled = pooled / pooled.square().sum(dim=1, keepdim=True).sqrt()
        assert torch.allclose(unit.pooled_features(x), pooled)
        assert torch.allclose(unit(x), torch.sigmoid(unit.hash(pooled)))


def test_the_class_layer_can_read_bits():
    torch.manual_seed(0)
    network = DRHN(tiny_config(classify_bits=True, threshold=0.4, nested=(4,)))
    activations = torch.rand(5, 16, requires_grad=True)
    bits = torch.where(activations > 0.4, 1.0, -1.0)
    scores = network.scores(activations)
    assert torch.equal(scores, network.scores(activations.detach() * 0.1 + 0.9 * (activations > 0.4)))
    assert torch.allclose(scores, bits @ network.classify.weight.T + network.classify.bias, atol=1e-6)
    prefix = bits[:, :4] @ network.classify.weight[:, :4].T * 4 + network.classify.bias
    assert torch.allclose(network.scores(activations, 4), prefix, atol=1e-6)
    scores.sum().backward()
    # As if the class layer had read activations, stretched to -1..1.
    assert torch.allclose(activations.grad, 2 * network.classify.weight.sum(dim=0).expand(5, 16))
