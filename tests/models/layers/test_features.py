"""Features against Kaldi's own code and against literal transcriptions of its loops."""

import math

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from cslib.config import UserError
from cslib.models.layers.features import LogMel, SlidingMeanNorm, energy_vad, log_energy, num_frames


def speech_like(*shape, seed=0, hum=0.02):
    """Noise bursts and pauses over a hum and an offset: every band is loud here and nearly empty there."""
    rng = np.random.default_rng(seed)
    time = np.arange(shape[-1]) / 16000
    bursts = 0.1 * rng.standard_normal(shape) * (np.sin(2 * np.pi * 3 * time) > 0)
    audio = bursts + hum * np.sin(2 * np.pi * 120 * time) + 0.01 + 1e-4 * rng.standard_normal(shape)
    return audio.astype(np.float32)


def kaldi_fbank(audio, snip_edges, num_mels, low=20, high=7600):
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = snip_edges
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = num_mels, low, high
    return frames_of(kaldi_native_fbank.OnlineFbank(options), audio)


def kaldi_energy(audio, snip_edges):
    options = kaldi_native_fbank.MfccOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = snip_edges
    options.use_energy, options.raw_energy, options.energy_floor = True, True, 0.0
    return frames_of(kaldi_native_fbank.OnlineMfcc(options), audio)[:, 0]


def frames_of(computer, audio):
    computer.accept_waveform(16000, (audio * 32768).tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(index) for index in range(computer.num_frames_ready)])


# Log-mel


@pytest.mark.parametrize("snip_edges", [False, True])
@pytest.mark.parametrize("num_mels", [23, 40, 80])
def test_log_mel_equals_kaldi(snip_edges, num_mels):
    audio = speech_like(3, 16077)
    features = LogMel(num_mels, snip_edges=snip_edges)(torch.from_numpy(audio)).numpy()
    for row, expected in zip(features, (kaldi_fbank(x, snip_edges, num_mels) for x in audio), strict=True):
        assert row.shape == expected.shape
        assert np.abs(row - expected).max() < 1e-3


@pytest.mark.parametrize("num_samples", [80, 90, 200, 239, 400, 401, 479, 480, 559, 560])
def test_log_mel_equals_kaldi_on_the_shortest_audio(num_samples):
    audio = speech_like(num_samples, seed=num_samples)
    features = LogMel()(torch.from_numpy(audio)[None])[0].numpy()
    expected = kaldi_fbank(audio, False, 80)
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() < 1e-3


@pytest.mark.parametrize(("low", "high"), [(0, 8000), (100, 4000)])
def test_log_mel_equals_kaldi_in_other_bands(low, high):
    audio = speech_like(8000)
    features = LogMel(30, low, high)(torch.from_numpy(audio)[None])[0].numpy()
    assert np.abs(features - kaldi_fbank(audio, False, 30, low, high)).max() < 1e-3


def test_digital_silence_is_kaldis_floor():
    features = LogMel()(torch.zeros(1, 8000))
    assert torch.allclose(features, torch.tensor(math.log(torch.finfo(torch.float32).eps)))


@pytest.mark.parametrize("snip_edges", [False, True])
def test_number_of_frames_follows_from_the_number_of_samples(snip_edges):
    log_mel = LogMel(23, snip_edges=snip_edges)
    samples = [400, 401, 479, 480, 559, 560, 16000]
    counts = [log_mel.frames(n) for n in samples]
    assert counts == [log_mel(torch.zeros(2, n)).shape[1] for n in samples]
    assert counts == log_mel.frames(torch.tensor(samples)).tolist()


@pytest.mark.parametrize(("snip_edges", "shortest"), [(False, 80), (True, 400)])
def test_audio_shorter_than_a_frame_has_no_frames_and_is_refused(snip_edges, shortest):
    log_mel = LogMel(23, snip_edges=snip_edges)
    assert [log_mel.frames(n) for n in (0, shortest - 1, shortest)] == [0, 0, 1]
    assert log_mel.frames(torch.tensor([0, shortest - 1, shortest])).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="too short"):
        log_mel(torch.zeros(2, shortest - 1))


@pytest.mark.parametrize("snip_edges", [False, True])
def test_features_do_not_depend_on_the_padding_of_the_batch(snip_edges):
    log_mel, lengths = LogMel(40, snip_edges=snip_edges), torch.tensor([4000, 8000, 6123])
    audio = torch.from_numpy(speech_like(3, 8000))
    batch = log_mel(audio, lengths)
    for row, length, features in zip(audio, lengths, batch, strict=True):
        alone = log_mel(row[None, :length])[0]
        assert torch.allclose(features[: len(alone)], alone, atol=1e-4)


def test_autocast_does_not_touch_the_features():
    log_mel, audio = LogMel(), torch.from_numpy(speech_like(1, 8000))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = log_mel(audio)
    assert features.dtype == torch.float32
    assert torch.equal(features, log_mel(audio))


def test_log_mel_has_the_right_gradient():
    log_mel = LogMel(10)
    audio = torch.from_numpy(speech_like(1, 900)).requires_grad_()
    weights = torch.randn(1, 6, 10, generator=torch.Generator().manual_seed(0))
    (log_mel(audio) * weights).sum().backward()
    direction = audio.grad / audio.grad.norm()
    step = 1e-4
    with torch.no_grad():
        change = ((log_mel(audio + step * direction) - log_mel(audio - step * direction)) * weights).sum()
    assert change.item() / (2 * step) == pytest.approx(audio.grad.norm().item(), rel=0.02)


def test_log_mel_adds_nothing_to_a_checkpoint():
    assert LogMel().state_dict() == {}


def test_log_mel_can_be_exported():
    log_mel, audio = LogMel(), torch.from_numpy(speech_like(2, 8000))
    exported = torch.export.export(log_mel, (audio,)).module()
    assert torch.allclose(exported(audio), log_mel(audio))


@pytest.mark.parametrize("options", [{"num_mels": 300}, {"num_mels": 0}, {"high_freq": 9000}, {"low_freq": 7600}])
def test_impossible_filters_are_refused(options):
    with pytest.raises(UserError, match="mel filters"):
        LogMel(**options)


# Sliding mean normalisation


def slow_sliding_mean_norm(features, window):
    """SlidingWindowCmnInternal of Kaldi's feature-functions.cc with center = true, norm_vars = false."""
    count = len(features)
    normalised = np.empty_like(features)
    for t in range(count):
        window_start = t - window // 2
        window_end = window_start + window
        if window_start < 0:
            window_end -= window_start
            window_start = 0
        if window_end > count:
            window_start -= window_end - count
            window_end = count
            if window_start < 0:
                window_start = 0
        normalised[t] = features[t] - features[window_start:window_end].mean(0)
    return normalised


@pytest.mark.parametrize("frames", [1, 150, 300, 301, 302, 450, 1000])
def test_sliding_mean_norm_is_kaldis(frames):
    features = np.random.default_rng(0).normal(10, 3, (2, frames, 5))
    normalised = SlidingMeanNorm()(torch.from_numpy(features)).numpy()
    for row, expected in zip(normalised, features, strict=True):
        assert np.allclose(row, slow_sliding_mean_norm(expected, 301))


def test_sliding_mean_norm_with_an_even_window():
    features = np.random.default_rng(0).normal(size=(1, 30, 2))
    normalised = SlidingMeanNorm(8)(torch.from_numpy(features)).numpy()
    assert np.allclose(normalised[0], slow_sliding_mean_norm(features[0], 8))


def test_utterances_shorter_than_the_window_lose_their_mean():
    features = torch.randn(2, 280, 4)
    assert torch.allclose(SlidingMeanNorm()(features), features - features.mean(1, keepdim=True), atol=1e-5)


def test_sliding_mean_norm_leaves_padding_out():
    features, lengths = torch.randn(4, 500, 3), torch.tensor([500, 320, 90, 0])
    padded = features.clone()
    for row, length in zip(padded, lengths, strict=True):
        row[length:] = 1e6
    normalised = SlidingMeanNorm()(padded, lengths)
    for row, values, length in zip(normalised, features, lengths, strict=True):
        assert torch.allclose(row[:length], SlidingMeanNorm()(values[None, :length])[0], atol=1e-4)
        assert not row[length:].any()


def test_sliding_mean_norm_is_exact_far_into_a_long_recording():
    features = 1000 + torch.randn(1, 60000, 1)
    end = SlidingMeanNorm()(features)[0, -300:]
    expected = SlidingMeanNorm()(features[:, -451:].double())[0, -300:]
    assert torch.allclose(end.double(), expected, atol=2e-4)


# Voice activity


def slow_vad(log_energy, threshold=5.5, mean_scale=0.5, context=2, proportion=0.12):
    """ComputeVadEnergy of Kaldi's voice-activity-detection.cc."""
    count = len(log_energy)
    threshold = threshold + mean_scale * sum(log_energy) / count
    voiced = []
    for t in range(count):
        num_count = den_count = 0
        for t2 in range(t - context, t + context + 1):
            if 0 <= t2 < count:
                den_count += 1
                if log_energy[t2] > threshold:
                    num_count += 1
        voiced.append(num_count >= den_count * proportion)
    return voiced


@pytest.mark.parametrize("snip_edges", [False, True])
def test_log_energy_is_kaldis_raw_energy(snip_edges):
    audio = speech_like(8077)
    energy = log_energy(torch.from_numpy(audio)[None], snip_edges=snip_edges)[0].numpy()
    expected = kaldi_energy(audio, snip_edges)
    assert energy.shape == expected.shape
    assert np.abs(energy - expected).max() < 1e-3


@pytest.mark.parametrize(
    "options", [{}, {"proportion": 0.6, "context": 5}, {"context": 0}, {"threshold": 2.0, "mean_scale": 0.9}]
)
def test_vad_is_kaldis(options):
    audio = torch.from_numpy(speech_like(3, 24000, hum=0))
    voiced = energy_vad(audio, **options)
    assert voiced.dtype == torch.bool
    for row, energy in zip(voiced, log_energy(audio), strict=True):
        assert row.tolist() == slow_vad(energy.tolist(), **options)
        assert 0 < row.sum() < len(row)


def test_vad_does_not_depend_on_the_padding_of_the_batch():
    audio, lengths = torch.from_numpy(speech_like(3, 24000, hum=0)), torch.tensor([9000, 24000, 12345])
    voiced = energy_vad(audio, lengths)
    for row, samples, length in zip(voiced, audio, lengths, strict=True):
        alone = energy_vad(samples[None, :length])[0]
        assert torch.equal(row[: len(alone)], alone)
        assert not row[len(alone) :].any()


def test_silence_is_not_speech():
    assert not energy_vad(torch.zeros(2, 16000)).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu():
    audio, lengths = torch.from_numpy(speech_like(2, 60000)), torch.tensor([60000, 41000])
    features = LogMel()(audio, lengths)
    on_gpu = LogMel().cuda()(audio.cuda(), lengths.cuda())
    assert torch.allclose(on_gpu.cpu(), features, atol=1e-3)
    frames = num_frames(lengths)
    normalised = SlidingMeanNorm()(features.cuda(), frames.cuda())
    assert torch.allclose(normalised.cpu(), SlidingMeanNorm()(features, frames), atol=1e-4)
    assert torch.equal(energy_vad(audio.cuda(), lengths.cuda()).cpu(), energy_vad(audio, lengths))
