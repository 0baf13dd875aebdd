"""The float64, naive NumPy reference that every number of the package is checked against.

It shares no code with the package. Layers are 1-based, l = 1..L; step j leads from layer j to layer j + 1.
What the definitions leave undefined (0/0, an empty window) is NaN, and NaN in gives NaN out.
"""

import copy
import math

import numpy as np

NAN, EPS = math.nan, float(np.finfo(np.float64).eps)


def singular_values(h, eps=EPS):
    """sigma_1 >= ... >= sigma_r of h [N, d] with its column means subtracted, r = min(N - 1, d); noise is 0."""
    n, d = h.shape
    sigma = np.linalg.svd(h - h.mean(axis=0), compute_uv=False)[: min(n - 1, d)]
    return np.where(sigma > rounding_floor(h, eps), sigma, 0.0)


def rank_window(r, tail=(0.1, 0.9)):
    """k = max(1, ceil(0.1 r)) .. floor(0.9 r), inclusive, 1-based."""
    # Binary floating point has 0.28 * 25 = 7.000000000000001, whose ceil is 8: round to 9 decimals first.
    return max(1, math.ceil(round(tail[0] * r, 9))), math.floor(round(tail[1] * r, 9))


def rounding_floor(h, eps):
    """eps ||h||_F (1/sqrt(N) + 1/sqrt(d)) / sqrt(3), h uncentred: data's noise; at least max(N, d) EPS ||h||_F."""
    size, (n, d) = math.sqrt(np.sum(h * h)), h.shape
    return max(eps * size * (1 / math.sqrt(n) + 1 / math.sqrt(d)) / math.sqrt(3), max(n, d) * EPS * size)


def line_fit(x, y):
    """Least squares y = a + b x: (b, se, R^2), se = sqrt(SSR / (n - 2) / Sxx), R^2 = 1 - SSR / SST."""
    n, mean_x, mean_y = len(x), sum(x) / len(x), sum(y) / len(y)
    sxx = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sxx
    ssr = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    sst = sum((b - mean_y) ** 2 for b in y)
    se = math.sqrt(ssr / (n - 2) / sxx) if n > 2 else NAN
    return slope, se, 1 - ssr / sst if sst > 0 else NAN


def tail_exponent(h, tail=(0.1, 0.9), eps=EPS):
    """alpha = -d log sigma_k / d log k over the rank window: (alpha, se, r2); eps: that of h's own dtype."""
    h = np.asarray(h, dtype=np.float64)
    if not np.isfinite(h).all():
        return NAN, NAN, NAN
    sigma = singular_values(h, eps)
    first, last = rank_window(len(sigma), tail)
    if last - first < 1 or not sigma[last - 1] > 0:
        return NAN, NAN, NAN
    ranks = range(first, last + 1)
    slope, se, r2 = line_fit([math.log(k) for k in ranks], [math.log(sigma[k - 1]) for k in ranks])
    return -slope, se, r2


def fit_groups(prompts, group):
    """Prompt i is in fit i % K, K = N // group, if i < K group, and in none otherwise; lists of prompts."""
    size = min(group or prompts, prompts)
    fits = prompts // size
    return [[i for i in range(fits * size) if i % fits == k] for k in range(fits)]


def grouped_exponent(h, group, tail=(0.1, 0.9), eps=EPS):
    """Mean over the fits of their exponents, and std(ddof=1) / sqrt(K): the spread of the mean; h [N, d]."""
    found = [tail_exponent(h[rows], tail, eps)[0] for rows in fit_groups(len(h), group)]
    return mean(found), paired_se(found)


def effective_rank(h, eps=EPS):
    """exp(-sum_k p_k log p_k), p = sigma / sum sigma, centred h (Roy & Vetterli 2007); 0 log 0 = 0."""
    h = np.asarray(h, dtype=np.float64)
    if not np.isfinite(h).all() or not np.any(singular_values(h, eps)):
        return NAN
    p = singular_values(h, eps) / sum(singular_values(h, eps))
    return math.exp(-sum(x * math.log(x) for x in p if x > 0))


@np.errstate(invalid="ignore")  # an infinite logit gives NaN, quietly
def log_softmax(z):
    """log p_v = z_v - log sum_w exp z_w, over the last axis."""
    z = np.asarray(z, dtype=np.float64)
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(z):
    """p_v = exp z_v / sum_w exp z_w, over the last axis."""
    return np.exp(log_softmax(z))


def fisher_rao(z_p, z_q):
    """2 arccos(sum_v sqrt(p q)) = 4 arcsin(||sqrt p - sqrt q|| / 2), radians 0..pi; logits [V], [V]."""
    difference = np.sqrt(softmax(z_p)) - np.sqrt(softmax(z_q))
    return 4 * math.asin(math.sqrt(np.sum(difference**2)) / 2)


def displacement(z, z0):
    """fisher_rao(z_i, z0_i) per prompt; logits [N, V], [N, V] -> [N]."""
    return np.array([fisher_rao(a, b) for a, b in zip(z, z0, strict=True)])


def transport(z):
    """T_j = fisher_rao(z_j, z_(j+1)) per prompt; logits [L, N, V] -> [L - 1, N]."""
    return np.array([displacement(z[j], z[j + 1]) for j in range(len(z) - 1)])


def transport_top_k(z, k):
    """Transport over, per prompt, the union over layers of each layer's k likeliest tokens, renormalised."""
    columns = []
    for i in range(z.shape[1]):
        union = {v for logits in z[:, i] for v in np.argsort(-logits, kind="stable")[:k]}  # ties: lower id
        columns.append(transport(z[:, i : i + 1, sorted(union)])[:, 0])  # their softmax is renormalised
    return np.stack(columns, axis=1)


def entropy(z):
    """-sum_v p log p in nats, 0 log 0 = 0; logits [N, V] -> [N]."""
    log_p = log_softmax(z)
    return -(np.where(np.isneginf(log_p), 0, log_p) * np.exp(log_p)).sum(axis=-1)


def late_window(num_layers, window=1 / 3):
    """The last ceil(f L) layers as (first, last), 1-based, inclusive; a tuple is returned as it is."""
    if isinstance(window, tuple):
        return window
    return num_layers - math.ceil(round(window * num_layers, 9)) + 1, num_layers  # as in rank_window


def layers_in(curve, first, last):
    """The values of curve [L] at layers first..last."""
    return [curve[layer - 1] for layer in range(1, len(curve) + 1) if first <= layer <= last]


def steps_in(curve, first, last):
    """The values of curve [L - 1] at the steps j -> j + 1 with first <= j + 1 <= last."""
    return [curve[j - 1] for j in range(1, len(curve) + 1) if first <= j + 1 <= last]


def mean(values):
    """sum / n; nothing to average: NaN."""
    return float(sum(values) / len(values)) if len(values) > 0 else NAN


def late_means(alpha, transport_mean, first, last):
    """(mean_W alpha over layers, mean_W T over the steps that end in W); [L], [L - 1]."""
    return mean(layers_in(alpha, first, last)), mean(steps_in(transport_mean, first, last))


def curvature(points, curve):
    """mean |x_(i+1) - 2 x_i + x_(i-1)| / range of the whole curve, NaN ignored; range 0: 0; no bend: NaN."""
    bend = mean([abs(points[i + 1] - 2 * points[i] + points[i - 1]) for i in range(1, len(points) - 1)])
    known = [x for x in curve if not math.isnan(x)]
    span = max(known, default=NAN) - min(known, default=NAN)
    return bend * 0.0 if span == 0 else bend / span


def coherence(alpha, transport_mean, first, last):
    """c = 1 / (1 + (curvature_W(alpha) + curvature_W(T)) / 2); [L], [L - 1]."""
    bend = curvature(layers_in(alpha, first, last), alpha)
    return 1 / (1 + (bend + curvature(steps_in(transport_mean, first, last), transport_mean)) / 2)


def path_length(transport_mean, first, last):
    """(sum of the steps that end in W, sum of all); [L - 1]."""
    return float(sum(steps_in(transport_mean, first, last))), float(sum(transport_mean))


def greatest_change(change, first_layer):
    """The layer of the largest |change|; curve whose first value is layer `first_layer`'s."""
    best = max(range(len(change)), key=lambda i: abs(change[i]))
    return best + first_layer


def share(part, whole):
    """sum |part| / sum |whole|; 0/0: NaN."""
    total = sum(abs(x) for x in whole)
    return float(sum(abs(x) for x in part) / total) if total != 0 else NAN


def localization(dalpha, dtransport, first, last):
    """(sum_W |dalpha| / sum |dalpha| + sum_W |dT| / sum |dT|) / 2; [L], [L - 1]."""
    late_alpha, late_transport = layers_in(dalpha, first, last), steps_in(dtransport, first, last)
    return (share(late_alpha, dalpha) + share(late_transport, dtransport)) / 2


def gradient_concentration(norms_sq, first, last):
    """sum_W ||g_l||^2 / sum_l ||g_l||^2; squared norms [L]."""
    return share(layers_in(norms_sq, first, last), norms_sq)


def delta_align(late_alpha, late_alpha0, late_transport, late_transport0):
    """(mean_W alpha - mean_W alpha0) - (mean_W T - mean_W T0)."""
    return (late_alpha - late_alpha0) - (late_transport - late_transport0)


def score(align, coherent, concentration, weights=(1, 1, 1)):
    """w . (delta_align, coherence, gradient_concentration)."""
    return weights[0] * align + weights[1] * coherent + weights[2] * concentration


def paired_se(d):
    """std(d, ddof=1) / sqrt(N) of per-prompt differences [N]."""
    return math.sqrt(sum((x - mean(d)) ** 2 for x in d) / (len(d) - 1) / len(d)) if len(d) > 1 else NAN


def jackknife_se(values):
    """sqrt((G - 1) / G * sum_g (v_g - mean v)^2); delete-group estimates [G]."""
    return math.sqrt((len(values) - 1) / len(values) * sum((v - mean(values)) ** 2 for v in values))


def jackknife_late_alpha_change(h, h0, first, last, tail=(0.1, 0.9), groups=8, eps=EPS):
    """jackknife_se over g of mean_W(alpha_(-g) - alpha0_(-g)), prompt i in group i % G; h, h0 [L, N, d]."""
    changes = []
    for g in range(groups):
        kept = [i for i in range(h.shape[1]) if i % groups != g]
        a, a0 = ([tail_exponent(x[i][kept], tail, eps)[0] for i in range(first - 1, last)] for x in (h, h0))
        changes.append(mean(a) - mean(a0))
    return jackknife_se(changes)


def dpo_gradients(model, before, pairs, beta, layers_of):
    """Squared gradient norms [L] of the mean DPO loss over (prompt, chosen, rejected) token ids: one backward pass."""
    import torch

    def log_likelihood(policy, prompt, answer):
        log_p = policy(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0].log_softmax(-1)
        return sum(log_p[len(prompt) - 1 + t, answer[t]] for t in range(len(answer)))

    model, before = (copy.deepcopy(m).double().eval().requires_grad_() for m in (model, before))
    losses = []
    for prompt, *both in pairs:
        now = [log_likelihood(model, prompt, answer) for answer in both]
        with torch.no_grad():
            then = [log_likelihood(before, prompt, answer) for answer in both]
        losses.append(-torch.nn.functional.logsigmoid(beta * (now[0] - then[0] - now[1] + then[1])))
    (sum(losses) / len(losses)).backward()
    return [float(sum((p.grad**2).sum() for p in layer.parameters())) for layer in layers_of(model)]


def t_tail(x, freedom, steps=100_000, far=400.0):
    """P(T > x) for Student's t, by the trapezoid rule over its density."""
    points = np.linspace(x, x + far, steps)
    log_c = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    return float(np.trapezoid(np.exp(log_c - (freedom + 1) / 2 * np.log1p(points**2 / freedom)), points))


def p_changed(change, se, freedom, bound, signed=True):
    """Chance of an estimate of this size or larger if the true change is `bound`."""
    other = t_tail((abs(change) + bound) / se, freedom) if signed else 0.0
    return t_tail((abs(change) - bound) / se, freedom) + other


def p_negligible(change, se, freedom, bound):
    """The larger p of the two one-sided tests of |change| < bound."""
    return max(t_tail((bound - change) / se, freedom), t_tail((bound + change) / se, freedom))


def reference_positions(model, prompts, layers_of, norm_of, head_of, finish=lambda logits: logits):
    """For each prompt, run alone: h_l [L, T, d] at all its T tokens, and z_l = finish(head(norm(h_l))) [L, T, V]."""
    import torch

    model = copy.deepcopy(model).double().eval()
    seen, found = [], []
    for layer in layers_of(model):
        layer.register_forward_hook(
            lambda m, a, out: seen.append((out[0] if isinstance(out, tuple) else out)[0].clone())
        )
    with torch.no_grad():
        for ids in prompts:
            seen.clear()
            model(input_ids=torch.tensor([list(ids)]), use_cache=False)
            h = list(seen)
            z = [[finish(head_of(model)(norm_of(model)(row[None, None])))[0, 0].numpy() for row in x] for x in h]
            found.append((np.array([x.numpy() for x in h]), np.array(z)))
    return found


def reference_trace(model, prompts, layers_of, norm_of, head_of, finish=lambda logits: logits):
    """h_l [L, N, d] at the last token, z_l = finish(head(norm(h_l))) [L, N, V]; each prompt run alone."""
    import torch

    model = copy.deepcopy(model).double().eval()
    seen, h, z = [], [], []

    def keep(module, args, output):
        # Some layers return a tuple. [1, 1, d] is the shape the model itself gives its norm and head.
        seen.append((output[0] if isinstance(output, tuple) else output)[:1, -1:].clone())

    for layer in layers_of(model):
        layer.register_forward_hook(keep)  # on a copy that is thrown away: never removed
    with torch.no_grad():
        for ids in prompts:
            seen.clear()
            batch = torch.tensor([list(ids)], device=next(model.parameters()).device)
            model(input_ids=batch, use_cache=False)
            h.append([x[0, 0].cpu().numpy() for x in seen])
            z.append([finish(head_of(model)(norm_of(model)(x)))[0, 0].cpu().numpy() for x in seen])
    return {"h": np.array(h).swapaxes(0, 1), "z": np.array(z).swapaxes(0, 1)}
