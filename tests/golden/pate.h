/* pate.h - made by /usr/bin/python3 pate.py > pate.h: privacy budgets by numerical search */
typedef struct golden_pate {
    kd_pate_noise noise;
    double scale, threshold_sigma; /* gamma or sigma; 0: no threshold */
    int asked, answered;
    double delta, epsilon;
} golden_pate;
static const golden_pate golden_pates[] = {
    {KD_PATE_LAPLACE, 0.05, 0, 100, 100, 1e-05, 5.29852592},
    {KD_PATE_LAPLACE, 0.05, 0, 1000, 1000, 1e-06, 21.6225814},
    {KD_PATE_LAPLACE, 0.02, 0, 3, 3, 1e-05, 0.12},
    {KD_PATE_LAPLACE, 0.3, 0, 1, 1, 0.001, 0.6},
    {KD_PATE_LAPLACE, 0.5, 0, 40, 40, 1e-08, 40},
    {KD_PATE_GAUSSIAN, 40, 0, 500, 500, 1e-05, 4.10606782},
    {KD_PATE_GAUSSIAN, 10, 0, 1, 1, 1e-06, 0.753384438},
    {KD_PATE_GAUSSIAN, 5, 0, 100, 100, 1e-05, 17.5722808},
    {KD_PATE_GAUSSIAN, 40, 150, 2000, 300, 1e-05, 3.50019113},
    {KD_PATE_GAUSSIAN, 100, 200, 6000, 0, 1e-08, 2.425788},
};
