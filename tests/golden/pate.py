#!/usr/bin/env python3
"""Writes pate.h: what noisy votes cost, from the definitions by numerical search.

    /usr/bin/python3 pate.py > pate.h

Laplace: the moments accountant, over many moments. Gaussian: Renyi divergences of two normal distributions whose means
differ by the sensitivity, integrated, composed and converted over many orders.
"""
import math

import numpy

# Laplace: gamma, answered; Gaussian: sigma, threshold's sigma (0: none), asked, answered; delta
LAPLACE = [(0.05, 100, 1e-5), (0.05, 1000, 1e-6), (0.02, 3, 1e-5), (0.3, 1, 1e-3), (0.5, 40, 1e-8)]
GAUSSIAN = [(40, 0, 500, 500, 1e-5), (10, 0, 1, 1, 1e-6), (5, 0, 100, 100, 1e-5), (40, 150, 2000, 300, 1e-5),
            (100, 200, 6000, 0, 1e-8)]


def renyi(order, shift, sigma):
    """Of N(shift, sigma^2) from N(0, sigma^2)."""
    x = numpy.linspace(order * shift - 40 * sigma, order * shift + 40 * sigma, 20001)
    log_p = -(x - shift) ** 2 / (2 * sigma ** 2)
    log_q = -x ** 2 / (2 * sigma ** 2)
    terms = order * log_p + (1 - order) * log_q
    top = terms.max()
    integral = numpy.exp(terms - top).sum() * (x[1] - x[0]) / (sigma * math.sqrt(2 * math.pi))
    return (top + math.log(integral)) / (order - 1)


def laplace(gamma, answered, delta):
    moments = numpy.exp(numpy.linspace(math.log(1e-3), math.log(1e6), 200001))
    log_moment = answered * 2 * gamma ** 2 * moments * (moments + 1)
    return min(((log_moment - math.log(delta)) / moments).min(), 2 * gamma * answered)


def gaussian(sigma, threshold_sigma, asked, answered, delta):
    def epsilon(order):
        cost = answered * renyi(order, math.sqrt(2), sigma)  # one voter more here, one less there
        if threshold_sigma:
            cost += asked * renyi(order, 1, threshold_sigma)
        return cost - math.log(delta) / (order - 1)

    low, high = math.log(1e-3), math.log(1e5)
    for _ in range(90):  # thirds: the curve has one valley
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if epsilon(1 + math.exp(a)) < epsilon(1 + math.exp(b)):
            high = b
        else:
            low = a
    return epsilon(1 + math.exp(low))


print('/* pate.h - made by /usr/bin/python3 pate.py > pate.h: privacy budgets by numerical search */')
print('''typedef struct golden_pate {
    kd_pate_noise noise;
    double scale, threshold_sigma; /* gamma or sigma; 0: no threshold */
    int asked, answered;
    double delta, epsilon;
} golden_pate;
static const golden_pate golden_pates[] = {''')
for gamma, answered, delta in LAPLACE:
    print('    {KD_PATE_LAPLACE, %g, 0, %d, %d, %g, %.9g},' % (gamma, answered, answered, delta,
                                                             laplace(gamma, answered, delta)))
for case in GAUSSIAN:
    print('    {KD_PATE_GAUSSIAN, %g, %g, %d, %d, %g, %.9g},' % (case + (gaussian(*case),)))
print('};')
